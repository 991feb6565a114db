"""Sealing: a value is opened in its place by who has the key, and nowhere else by anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from fix_secrets import entropy
from holdfast.documents import Sealed, freeze
from holdfast.documents.sealed import SEALED_BYTES_MAX
from holdfast.errors import DocumentTooDeep, DocumentTooLarge, InvalidDocument, KeyMissing, SealBroken
from holdfast.sensitivity import known_keys, sealing
from holdfast.sensitivity.data_keys import DERIVED_MAX, DataKey
from holdfast.sensitivity.known_keys import KnownKeys, Sealer
from holdfast.sensitivity.sealing import VALUE_BYTES_MAX, Place, plain_bytes, seal, unseal, value_in
from unit.test_documents_tagging import exactly, free_values

PLACE = Place("run", "r1", "token", "0197.0000.n1")
KEY = DataKey("k1", b"d" * 32)
SALT, NONCE = b"s" * 16, b"n" * 12


def sealed(value: Any = "hush", place: Place = PLACE) -> Sealed:
    """A value in its place."""
    return seal(plain_bytes(value, place), place, KEY, SALT, NONCE)


def opened(what: Sealed, place: Place = PLACE) -> Any:
    """What is in it."""
    return value_in(unseal(what, place, {"k1": KEY}.__getitem__), place)


@given(free_values)
def test_any_value_comes_back_exactly(value: Any) -> None:
    """Types, signs, zones and the order of keys, as from a document."""
    assert exactly(opened(sealed(value))) == exactly(freeze(value))


@pytest.mark.parametrize(
    "other",
    [
        Place("bot", "r1", "token", "0197.0000.n1"),
        Place("run", "r2", "token", "0197.0000.n1"),
        Place("run", "r1", "password", "0197.0000.n1"),
        Place("run", "r1", "token", "0197.0001.n1"),
        Place("run", "r1t", "oken", "0197.0000.n1"),
        Place("run", "", "r1token", "0197.0000.n1"),
    ],
    ids=["kind", "id", "name", "version", "moved border", "all in one"],
)
def test_moved_ciphertext_is_refused(other: Place) -> None:
    """To another kind, run, variable or version; nor can parts of a place be shifted into one another."""
    with pytest.raises(SealBroken, match="another place"):
        opened(sealed(), other)


def test_without_its_place_moved_ciphertext_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the place is not authenticated."""
    monkeypatch.setattr(sealing.Place, "as_bytes", lambda _: b"")
    assert opened(sealed(), PLACE._replace(id="r2")) == "hush"


def test_no_flipped_bit_is_opened() -> None:
    """Of any byte, the header included; what is changed into no sealed value at all is refused before."""
    content = sealed().content
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            with pytest.raises((SealBroken, KeyError, ValueError)):
                opened(Sealed(bytes(changed)))


def test_a_cut_one_is_not_opened() -> None:
    """Whatever is missing at its end."""
    content = sealed().content
    for size in range(len(content)):
        with pytest.raises((SealBroken, KeyError, ValueError)):
            opened(Sealed(content[:size]))


def test_a_later_format_is_named() -> None:
    """It is not broken: this server is too old."""
    with pytest.raises(SealBroken, match="format 7"):
        opened(Sealed(b"\x07" + sealed().content[1:]))


def test_another_salt_is_another_key() -> None:
    """So servers that share a data key do not share nonces."""
    plain = plain_bytes("hush", PLACE)
    one, other = (seal(plain, PLACE, KEY, salt * 16, NONCE) for salt in (b"a", b"b"))
    assert one.ciphertext != other.ciphertext
    assert opened(one) == opened(other) == "hush"
    for number in range(DERIVED_MAX + 10):
        KEY.cipher(number.to_bytes(16, "big"))
    assert len(KEY._derived) == DERIVED_MAX
    assert opened(one) == "hush"


def test_what_cannot_be_stored_is_refused_without_a_word_of_it() -> None:
    """The path ends at the variable's name: keys inside a secret are secret."""
    deep: Any = "x"
    for _ in range(200):
        deep = ["x", deep]
    cases: list[tuple[type[InvalidDocument], Any]] = [
        (InvalidDocument, {"anna@example.com": [object()]}),
        (InvalidDocument, {"anna@example.com": "\ud800"}),
        (InvalidDocument, {"anna@example.com": "\0"}),
        (DocumentTooLarge, {"anna@example.com": "x" * VALUE_BYTES_MAX}),
        (DocumentTooDeep, {"anna@example.com": deep}),
    ]
    for error, value in cases:
        with pytest.raises(error) as caught:
            sealed(value)
        assert caught.value.path == "token"
        assert "anna" not in f"{caught.value} {caught.value.__cause__}"


def test_the_largest_value_fits() -> None:
    """With the longest id of a key."""
    value = "x" * (VALUE_BYTES_MAX - len('{"__version":1,"value":""}'))
    largest = seal(plain_bytes(value, PLACE), PLACE, DataKey("k" * 64, b"d" * 32), SALT, NONCE)
    assert len(largest.content) == SEALED_BYTES_MAX


def test_no_salt_seals_too_many() -> None:
    """Each is drawn anew before its nonces could meet, and nonces are never drawn from anything but chance."""
    sealer = Sealer(KEY, entropy(), seals_max=3)
    done = [sealer.seal(b"hush", PLACE) for _ in range(8)]
    assert [done[0].salt] * 3 + [done[3].salt] * 3 + [done[6].salt] * 2 == [each.salt for each in done]
    assert len({each.salt for each in done}) == 3
    assert len({each.nonce for each in done}) == 8


def test_without_keys_nothing_is_sealed_or_opened() -> None:
    """The error names the setting, and how to get a key."""
    keys = KnownKeys()
    attempts: list[Callable[[], object]] = [
        lambda: keys.seal("hush", PLACE),
        lambda: keys.open(sealed(), PLACE),
        lambda: keys.move(sealed(), PLACE, PLACE),
    ]
    for attempt in attempts:
        with pytest.raises(KeyMissing, match="master_keys; `holdfast keys new` makes one"):
            attempt()


def test_a_key_that_is_not_known_is_named() -> None:
    """With the reason, if it is known."""
    keys = KnownKeys()
    keys.learn(DataKey("k2", b"e" * 32))
    with pytest.raises(KeyMissing, match="data key k1 is not known here; see the setting master_keys"):
        keys.open(sealed(), PLACE)
    keys.note_unreadable("k1", "it was eaten")
    with pytest.raises(KeyMissing, match="it was eaten"):
        keys.open(sealed(), PLACE)
    keys.learn(KEY)
    assert keys.open(sealed(), PLACE) == "hush"
    assert keys.unknown(["k1", "k3", "k2", "k3"]) == ["k3"]
    for number in range(known_keys.UNREADABLE_MAX + 1):
        keys.note_unreadable(f"u{number}", "whatever a document names")
    assert len(keys._unreadable) == known_keys.UNREADABLE_MAX


def test_no_text_has_a_key() -> None:
    """Neither of keys nor of what holds them."""
    keys = KnownKeys()
    keys.learn(KEY)
    keys.sealer = Sealer(KEY, entropy())
    assert "dddd" not in f"{KEY!r} {keys!r} {keys.sealer!r}"
