"""Keys: which ids and kinds' names are taken, and what a key is called in L2."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidKey
from holdfast.keys import ID_BYTES_MAX, Key, check_id, check_kind_name, redis_key

PREFIX = b"vrooli:"

ids = st.text(
    st.one_of(st.sampled_from("%{}*?[]\\: \n7BD"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    min_size=1,
    max_size=20,
)
kinds = st.from_regex(r"\A[a-z][a-z0-9_]{0,5}\Z")


@pytest.mark.parametrize("identifier", ["a", " ", "a:b", "{a}", "日本", "line\nbreak", "x" * 512, "é" * 256])
def test_any_text_up_to_512_bytes_is_an_id(identifier: str) -> None:
    """An id is text of 1 to 512 bytes of UTF-8, whatever its characters, and comes back unchanged."""
    assert check_id(identifier) is identifier


@pytest.mark.parametrize(
    ("identifier", "fault"),
    [
        (5, "an id is text, not int: 5"),
        (None, "an id is text, not NoneType: None"),
        (b"b1", "an id is text, not bytes: b'b1'"),
        ("", "an id must not be empty"),
        ("x" * 513, f"id {'x' * 40!r}... has 513 bytes; at most 512"),
        ("é" * 257, f"id {'é' * 40!r}... has 514 bytes; at most 512"),
        ("a\0b", "id 'a\\x00b' holds a NUL character, which PostgreSQL cannot store"),
        ("ab\udc80", "id 'ab\\udc80' is not valid Unicode (position 2)"),
    ],
)
def test_what_cannot_be_an_id_is_refused_with_the_fault(identifier: object, fault: str) -> None:
    """Each sort of bad id is refused with a sentence of its own."""
    with pytest.raises(InvalidKey) as refused:
        check_id(identifier)
    assert str(refused.value) == fault


def test_the_limit_is_counted_in_bytes_of_utf8() -> None:
    """An id of fewer characters than the limit is refused if its UTF-8 is longer."""
    identifier = "日" * (ID_BYTES_MAX // 3 + 1)
    assert len(identifier) < ID_BYTES_MAX
    with pytest.raises(InvalidKey, match="513 bytes"):
        check_id(identifier)


@pytest.mark.parametrize("name", ["a", "swarm", "run_snapshot", "k9", "a" * 40])
def test_a_kinds_name_is_a_short_lower_case_word(name: str) -> None:
    """1 to 40 of a-z, 0-9 and _, beginning with a letter."""
    assert check_kind_name(name) is name


@pytest.mark.parametrize("name", ["", "A", "9a", "_a", "a-b", "a:b", "a b", "a\n", "é", "a" * 41])
def test_a_kinds_name_that_breaks_the_rule_is_refused(name: str) -> None:
    """The refusal repeats the name and says what a name may be."""
    with pytest.raises(InvalidKey) as refused:
        check_kind_name(name)
    assert str(refused.value) == f"kind name {name!r}: use 1 to 40 of a-z, 0-9 and _, beginning with a letter"


def test_a_key_shows_its_kind_and_id() -> None:
    """Messages call a key kind:id."""
    assert str(Key("bot", "b:1")) == "bot:b:1"


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("b1", b"vrooli:bot:b1"),
        ("a:b", b"vrooli:bot:a:b"),
        ("{a}", b"vrooli:bot:%7Ba%7D"),
        ("%7Ba%7D", b"vrooli:bot:%257Ba%257D"),
        ("a*?[b]\\", b"vrooli:bot:a%2A%3F%5Bb%5D%5C"),
        ("a b\r\n\x7f", b"vrooli:bot:a%20b%0D%0A%7F"),
        ("日本", "vrooli:bot:日本".encode()),
    ],
)
def test_the_name_in_l2_is_fixed(identifier: str, name: bytes) -> None:
    """These names are stored in running clusters: a change of the escaping would lose every entry."""
    assert redis_key(PREFIX, Key("bot", identifier)) == name


@given(kind=kinds, identifier=ids)
def test_no_two_keys_share_a_name_in_l2(kind: str, identifier: str) -> None:
    """The key can be read back from its name, so different keys have different names."""
    name = redis_key(PREFIX, Key(kind, identifier))
    kind_read, _, id_read = name.removeprefix(PREFIX).partition(b":")
    assert (kind_read.decode(), unquote_to_bytes(id_read).decode()) == (kind, identifier)


@given(kind=kinds, identifier=ids)
def test_an_id_cannot_choose_its_slot_or_form_a_pattern(kind: str, identifier: str) -> None:
    """No name holds a brace, a glob character, a space or a control character."""
    name = redis_key(PREFIX, Key(kind, identifier))
    assert not set(name) & {*b"{}*?[]\\\x7f", *range(0x21)}
