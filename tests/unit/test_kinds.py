"""Kinds: what a declaration may say, and how kinds are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.documents import (
    Bot,
    Delivery,
    Document,
    Escalation,
    ExportedValue,
    Review,
    Routine,
    Run,
    RunContextSnapshot,
    Swarm,
    Team,
)
from holdfast.errors import InvalidKey, SettingsError
from holdfast.kinds import BUILT_IN, SWARM, Caching, Kind, register


class Plan(Document, frozen=True, kw_only=True):
    """A document of one's own."""

    goal: str = ""


def test_the_built_in_kinds_are_those_of_the_seed() -> None:
    """Names, documents, tables, L1 caches, L2 TTLs and the one kind of history."""
    built_in = [
        (kind.name, kind.document, kind.table, kind.caching.cache, kind.caching.l2_ttl_seconds, kind.append_only)
        for kind in BUILT_IN
    ]
    assert built_in == [
        ("swarm", Swarm, "Chat", "swarm", 900, False),
        ("bot", Bot, "User", "config", 1800, False),
        ("team", Team, "Teams", "config", 1800, False),
        ("routine", Routine, "Routine", "config", 3600, False),
        ("run_snapshot", RunContextSnapshot, "RunContextSnapshot", "run", 900, True),
        ("run", Run, "Run", "run", 900, False),
        ("export", ExportedValue, "Export", "run", 900, False),
        ("delivery", Delivery, "Delivery", "run", 900, False),
        ("review", Review, "Review", "run", 900, False),
        ("escalation", Escalation, "Escalation", "run", 900, False),
    ]


def test_the_table_is_named_like_the_kind_unless_said_otherwise() -> None:
    """A kind without a table of its own naming gets one of its own name."""
    assert Kind("plan", Plan).table == "plan"
    assert Kind("plan", Plan, "Plans").table == "Plans"


def test_a_kind_has_an_l1_cache_of_its_own_by_default() -> None:
    """Nothing is shared that was not asked to be."""
    assert Kind("plan", Plan).caching == Caching(
        cache=None, l1_entries_max=1000, l1_ttl_seconds=300, l2_ttl_seconds=900
    )


def test_a_kinds_name_is_checked() -> None:
    """The name is part of keys, so the rules of keys hold for it."""
    with pytest.raises(InvalidKey, match="kind name 'Plan'"):
        Kind("Plan", Plan)


@pytest.mark.parametrize("document", [dict, object, Plan(), None, "Plan"])
def test_a_kinds_document_is_a_class_of_documents(document: Any) -> None:
    """Anything else than a class derived from Document is refused, naming the kind."""
    with pytest.raises(SettingsError, match="kind plan: document must be a class derived from Document"):
        Kind("plan", document)


@pytest.mark.parametrize("table", ["t", "Mixed Case", 'quoted"', "é" * 25, "t" * 50])
def test_a_table_may_have_any_name_of_50_bytes(table: str) -> None:
    """Names are quoted where they are used; PostgreSQL's limit less what a partition adds is the only bound."""
    assert Kind("plan", Plan, table).table == table


@pytest.mark.parametrize("table", ["t" * 51, "é" * 26, "a\0b", "a\udc80"])
def test_a_table_that_postgresql_cannot_name_is_refused(table: str) -> None:
    """Too long, NUL or no Unicode: refused when declared, naming the kind."""
    with pytest.raises(SettingsError, match="kind plan: table names"):
        Kind("plan", Plan, table)


@pytest.mark.parametrize(
    "table",
    [
        *("generations", "incarnation", "invalidations", "kinds", "migrations", "tag_count", "tag_generations"),
        *("dead_writes", "journal_beats", "journals"),
    ],
)
def test_a_table_of_holdfasts_own_cannot_be_a_kinds(table: str) -> None:
    """The schema's own tables are taken: such a kind is refused when declared, not by the migration."""
    with pytest.raises(SettingsError, match=f"kind plan: .*{table}"):
        Kind("plan", Plan, table)


NAN, INFINITE, FIFTY_DAYS = float("nan"), float("inf"), 50 * 86_400.0


@pytest.mark.parametrize(
    "limits",
    [
        {"l1_entries_max": 0},
        {"l1_ttl_seconds": 0},
        {"l1_ttl_seconds": -1.0},
        {"l1_ttl_seconds": NAN},
        {"l2_ttl_seconds": 0},
        {"l2_ttl_seconds": NAN},
    ],
)
def test_cache_sizes_and_ttls_are_positive(limits: dict[str, float]) -> None:
    """A limit that holds nothing is refused when declared, naming the kind."""
    with pytest.raises(SettingsError, match="kind plan: "):
        Kind("plan", Plan, caching=Caching(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [FIFTY_DAYS, INFINITE])
def test_a_ttl_that_no_entry_of_l2_can_carry_is_refused(seconds: float) -> None:
    """The wire format has 32 bits for milliseconds: a longer TTL would fail at each fill instead of once here."""
    with pytest.raises(SettingsError, match=r"kind plan: .*l2_ttl_seconds"):
        Kind("plan", Plan, caching=Caching(l2_ttl_seconds=seconds))


def test_a_kind_never_changes() -> None:
    """A kind is a constant that servers agree on."""
    with pytest.raises(AttributeError):
        SWARM.table = "other"  # type: ignore[misc]


def test_own_kinds_stand_beside_the_built_in_ones() -> None:
    """Registered kinds are found by name, own and built-in, in order of declaration."""
    plan = Kind("plan", Plan)
    registered = register([plan])
    built_in = ["swarm", "bot", "team", "routine", "run_snapshot", "run", "export", "delivery", "review", "escalation"]
    assert list(registered) == [*built_in, "plan"]
    assert registered["plan"] is plan
    assert registered["swarm"] is SWARM


def test_naming_a_kind_twice_is_harmless() -> None:
    """The same kind given again is still one kind."""
    plan = Kind("plan", Plan)
    assert register([plan, SWARM, plan]) == register([plan])


@pytest.mark.parametrize("own", [[Kind("bot", Plan, "Plan")], [Kind("plan", Plan), Kind("plan", Plan, "Plan")]])
def test_two_kinds_of_one_name_are_refused(own: list[Kind[Any]]) -> None:
    """Their keys could not be told apart."""
    with pytest.raises(SettingsError, match=f"two kinds are named {own[-1].name}"):
        register(own)


@pytest.mark.parametrize(
    ("own", "kinds"),
    [
        ([Kind("plan", Plan, "Chat")], "swarm and plan"),
        ([Kind("plan", Plan), Kind("goal", Plan, "plan")], "plan and goal"),
    ],
)
def test_two_kinds_in_one_table_are_refused(own: list[Kind[Any]], kinds: str) -> None:
    """Their rows could not be told apart; the refusal names both kinds and the table."""
    with pytest.raises(SettingsError, match=f"kinds {kinds} name the same table {own[-1].table}"):
        register(own)
