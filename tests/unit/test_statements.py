"""The SQL of L3: nothing but quoted table names ever enters its texts."""

from __future__ import annotations

import re
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tiers.l3_statements import Statements, load_many, quote

PARAMETERS: Final = {
    "load": 1,
    "probe": 2,
    "read": 1,
    "read_locked": 1,
    "upsert": 3,
    "upsert_one": 3,
    "insert": 3,
    "replace": 4,
    "lock": 1,
    "version": 1,
    "delete": 2,
    "scan": 2,
}
tables = st.text(
    st.one_of(st.sampled_from("\"';-$1)\\ \n"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    min_size=1,
    max_size=20,
)


def parameters(sql: str) -> set[int]:
    """The numbers of the parameters of a statement."""
    return {int(number) for number in re.findall(r"\$(\d+)", sql)}


@pytest.mark.parametrize(
    ("identifier", "quoted"), [("Chat", '"Chat"'), ('a"b', '"a""b"'), ('";DROP', '""";DROP"'), ("", '""')]
)
def test_an_identifier_is_quoted_with_its_quotes_doubled(identifier: str, quoted: str) -> None:
    """As PostgreSQL reads quoted identifiers."""
    assert quote(identifier) == quoted


@given(tables)
def test_a_quoted_name_is_one_identifier_and_nothing_else(table: str) -> None:
    """Read as the server reads it, from quote to closing quote, it is the name again, with no rest."""
    read = re.fullmatch(r'"((?:[^"]|"")*)"', quote(table))
    assert read is not None
    assert read[1].replace('""', '"') == table


@given(table=tables, append_only=st.booleans(), tagged=st.booleans())
def test_a_tables_name_changes_nothing_but_the_quoted_name(
    table: str,
    append_only: bool,  # noqa: FBT001 - drawn
    tagged: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever a table is called, its statements are those of a plain table with the name put in."""
    of_plain = msgspec.structs.asdict(Statements.of("plain_table", append_only=append_only, tagged=tagged))
    of_table = msgspec.structs.asdict(Statements.of(table, append_only=append_only, tagged=tagged))
    for name, sql in of_plain.items():
        assert of_table[name] == sql.replace('holdfast."plain_table"', f"holdfast.{quote(table)}"), name
        assert sql.count("plain_table") == sql.count('holdfast."plain_table"') > 0


@pytest.mark.parametrize("append_only", [False, True])
def test_ids_documents_and_versions_are_parameters(append_only: bool) -> None:  # noqa: FBT001 - a case
    """Each statement takes the parameters that its description lists, numbered without a gap."""
    statements = msgspec.structs.asdict(Statements.of("Chat", append_only=append_only))
    assert {name: parameters(sql) for name, sql in statements.items()} == {
        name: set(range(1, count + 1)) for name, count in PARAMETERS.items()
    }


@pytest.mark.parametrize("append_only", [False, True])
def test_tags_are_one_parameter_more_of_what_writes_documents(append_only: bool) -> None:  # noqa: FBT001 - a case
    """All other statements are those of a kind that declares none."""
    plain = msgspec.structs.asdict(Statements.of("Chat", append_only=append_only))
    tagged = msgspec.structs.asdict(Statements.of("Chat", append_only=append_only, tagged=True))
    writing = {"upsert", "upsert_one", "insert", "replace"}
    assert {name for name in plain if plain[name] != tagged[name]} == writing
    assert {name: parameters(tagged[name]) for name in writing} == {
        name: set(range(1, PARAMETERS[name] + 2)) for name in writing
    }


def test_rows_are_locked_in_key_order() -> None:
    """Writers of overlapping sets meet in one order and cannot deadlock."""
    assert Statements.of("Chat", append_only=False).lock.endswith("ORDER BY t.id FOR UPDATE")


def test_history_is_inserted_without_a_conflict_clause() -> None:
    """Its table has no unique index on the id alone for ON CONFLICT to name; its trigger refuses what exists."""
    assert "ON CONFLICT (id) DO NOTHING" in Statements.of("Chat", append_only=False).insert
    assert "ON CONFLICT" not in Statements.of("History", append_only=True).insert


@given(st.lists(tables, max_size=6))
def test_one_load_reads_many_tables_each_with_its_own_ids(names: list[str]) -> None:
    """The n-th table's rows carry position n-1 as their kind and are chosen by parameter n, after the identity row."""
    identity, *parts = re.split(r"\nUNION ALL ", load_many(names))
    assert "(-1)::int2 AS kind" in identity
    assert parameters(identity) == set()
    assert parts == [
        f"SELECT {position}::int2, id, version, birth, schema, document"  # noqa: S608 - compared, never sent
        f" FROM holdfast.{quote(name)} WHERE id = ANY(${position + 1}::text[])"
        for position, name in enumerate(names)
    ]


def test_loading_one_kind_is_loading_many_of_one() -> None:
    """Both forms return rows of one shape."""
    assert Statements.of("Chat", append_only=False).load == load_many(["Chat"])
