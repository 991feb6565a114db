"""How far a watcher has come in the change feed, and the text of it that travels: the token (pure).

A poll brings the changes that lie between two snapshots. So a position is the snapshot before, and, inside a poll, the
one after and the number of its changes that were given. It is of the feed and not of a watcher: it may be handed to
another one, of another kind, on another server.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Final
from uuid import UUID

import msgspec

from holdfast.errors import InvalidToken
from holdfast.protocols import Coherence, Cursor, Snapshot
from holdfast.token_text import TOKEN_CHARACTERS_MAX, seal, unseal

FORMAT: Final = 1
XID_MAX: Final = 2**63 - 1
LIFE_BYTES_MAX: Final = 64
DAMAGED: Final = "the token is damaged, or no watcher's"

Gap = Annotated[int, msgspec.Meta(ge=0, le=XID_MAX)]
Gaps = Annotated[list[Gap], msgspec.Meta(max_length=TOKEN_CHARACTERS_MAX)]


class Position(msgspec.Struct, frozen=True):
    """A place between two changes of the feed.

    Attributes:
        before: all that it sees was given, or lies before the beginning.
        after: of the poll that is given in part; None: none is.
        given: how many of the changes that `after` sees and `before` does not were given, in the feed's order.
    """

    before: Cursor
    after: Snapshot | None = None
    given: int = 0


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A position as MessagePack; snapshots as their numbers in rising order, each as its distance from the last."""

    incarnation: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    life: Annotated[str, msgspec.Meta(max_length=LIFE_BYTES_MAX)]
    before: Gaps
    after: Gaps
    given: Gap


def token_of(position: Position) -> str:
    """The token, at most TOKEN_CHARACTERS_MAX characters of ASCII.

    Where it would be longer, since very many transactions were running, it is that of an earlier position: changes may
    be given again, and none is left out.
    """
    before = position.before
    earlier = msgspec.structs.replace(before, snapshot=Snapshot(before.snapshot.xmin, before.snapshot.xmin))
    for each in (position, Position(before)):
        token = _token(each)
        if len(token) <= TOKEN_CHARACTERS_MAX:
            return token
    return _token(Position(earlier))


def position_of(token: str) -> Position:
    """The position that a token stands for. Its cursor cannot be continued over a start of L3's server.

    Raises:
        InvalidToken: it is none, or damaged.
    """
    body = unseal("a watcher's", FORMAT, token)
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
        before = Cursor(Coherence(UUID(bytes=wire.incarnation)), _snapshot(wire.before), (wire.life,))
        return Position(before, _snapshot(wire.after) if wire.given else None, wire.given)
    except (ValueError, msgspec.DecodeError) as fault:
        raise InvalidToken(DAMAGED) from fault


def _token(position: Position) -> str:
    before = position.before
    wire = _Wire(
        before.coherence.incarnation.bytes,
        before.life[0] if before.life else "",
        _gaps(before.snapshot),
        _gaps(position.after) if position.after is not None else [],
        position.given,
    )
    return seal(FORMAT, msgspec.msgpack.encode(wire))


def _gaps(snapshot: Snapshot) -> list[int]:
    numbers = [0, snapshot.xmin, *snapshot.running, snapshot.xmax]
    return [later - earlier for earlier, later in pairwise(numbers)]


def _snapshot(gaps: Sequence[int]) -> Snapshot:
    xmin, *running, xmax = accumulate(gaps)
    if xmax > XID_MAX:
        raise ValueError(f"no transaction has the number {xmax}")
    return Snapshot(xmin, xmax, tuple(running))
