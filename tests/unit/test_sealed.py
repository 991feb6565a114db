"""Sealed values: what they show, and how they are stored."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from holdfast.documents import BlackboardItem, FrozenDict, Limits, Swarm, decode, encode, freeze, thaw
from holdfast.documents.sealed import NONCE_BYTES, SALT_BYTES, SEALED_BYTES_MAX, TAG_BYTES, Sealed, header_of
from holdfast.errors import CorruptDocument

SALT, NONCE = bytes(range(SALT_BYTES)), bytes(range(100, 100 + NONCE_BYTES))
HEADER = header_of("k1", SALT, NONCE)
SEALED = Sealed(HEADER + b"c" * 64)


def stored(content: str) -> bytes:
    """A document with a sealed value of this content, as somebody may have written it."""
    return b'{"__version":2,"metadata":{"v":{"$sealed":' + content.encode() + b"}}}"


def test_its_parts_are_told_apart() -> None:
    """By their lengths alone."""
    assert (SEALED.key_id, SEALED.salt, SEALED.nonce) == ("k1", SALT, NONCE)
    assert (SEALED.header, SEALED.ciphertext) == (HEADER, b"c" * 64)


def test_no_text_shows_what_is_in_it() -> None:
    """Neither in Python nor in an error: whoever steals a key later looks for ciphertext in logs."""
    assert repr(SEALED) == str(SEALED) == "Sealed(key k1, 64 bytes)"
    assert repr(Sealed(b"\x02abc")) == "Sealed(format 2, 4 bytes)"


def test_it_never_changes() -> None:
    """It is a leaf like bytes: freezing and thawing leave it alone, and copies are equal."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEALED.content = b""  # type: ignore[misc]
    assert freeze({"v": [SEALED]})["v"][0] is SEALED
    assert thaw(FrozenDict(v=SEALED))["v"] is SEALED
    assert copy.deepcopy(SEALED) == SEALED == pickle.loads(pickle.dumps(SEALED))  # noqa: S301 - our own
    assert len({SEALED, Sealed(SEALED.content), Sealed(HEADER + b"d" * 64)}) == 2


@pytest.mark.parametrize("sealed", [SEALED, Sealed(b"\x02of a later format")], ids=["known", "later"])
def test_it_is_stored_under_a_tag(sealed: Sealed) -> None:
    """Beside other values that need one; also one of a later format, which a newer server has written."""
    body = encode(Swarm(blackboard=[BlackboardItem(id="b", value={"a": (1, sealed)})]))
    assert b'{"$sealed":"' in body
    assert decode(Swarm, body).blackboard[0].value == {"a": (1, sealed)}
    assert encode(decode(Swarm, body)) == body


def test_what_looks_like_one_is_none() -> None:
    """A user's own mapping of that name comes back as it was."""
    value = {"$sealed": "anything"}
    assert decode(Swarm, encode(Swarm(metadata={"v": value}))).metadata["v"] == value


@pytest.mark.parametrize(
    "content",
    ['"AQ"', '"====="', "5", '"AQ=="', '"AQJr"', '"AQBr' + "A" * 96 + '"', '"AQL//' + "A" * 96 + '"'],
)
def test_what_is_none_is_corrupt(content: str) -> None:
    """Cut short, without a key, with one that is no text, or no base64 at all."""
    with pytest.raises(CorruptDocument, match="sealed"):
        decode(Swarm, stored(content))


def test_its_size_is_bounded_before_it_is_decoded() -> None:
    """And exactly a MiB is taken."""
    most = Sealed(HEADER + b"c" * (SEALED_BYTES_MAX - len(HEADER)))
    assert decode(Swarm, encode_all(most)).metadata["v"] == most
    with pytest.raises(ValueError, match="1048576"):
        Sealed(most.content + b"c")
    with pytest.raises(CorruptDocument, match=r"content of a \$sealed tag") as refused:
        decode(Swarm, stored('"' + "A" * (SEALED_BYTES_MAX * 4 // 3 + 8) + '"'))
    assert refused.value.__cause__ is not None
    assert "at most 1048576" in str(refused.value.__cause__.__cause__)


def encode_all(sealed: Sealed) -> bytes:
    """A document with it, however large."""
    return encode(Swarm(metadata={"v": sealed}), Limits(bytes_max=1 << 30))


def test_a_short_one_is_refused() -> None:
    """There must be room for all parts, and for what authenticates it."""
    assert Sealed(HEADER + b"t" * TAG_BYTES).ciphertext == b"t" * TAG_BYTES
    for size in range(len(HEADER) + TAG_BYTES):
        with pytest.raises(ValueError, match="sealed value"):
            Sealed((HEADER + b"t" * TAG_BYTES)[:size])
