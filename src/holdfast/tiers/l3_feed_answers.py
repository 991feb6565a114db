"""What to ask the outbox for a cursor, and what its answer means (pure).

An anchor is when the server was started, and `seq`, xid and time of the outbox row with the highest `seq` that was
delivered; at the beginning, of the newest there is. UNLOGGED tables survive a copy of a stopped server's files, so that
an older copy has the same incarnation: after a restart only a row that is still there proves that this is the same
past.

A cursor without an anchor is continued without such a proof: whoever builds one from a snapshot must know by other
means that no restart lies in between. The cursor returned has an anchor again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from holdfast.changes import ChangeOperation
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Change, Coherence, Cursor, Poll, Snapshot
from holdfast.tiers.l3_feed_statements import CHANGES_MAX, POLL, POLL_AFTER_RESTART

Record = Mapping[str, Any]
Row = tuple[str, ...]
"""`seq`, xid and time of a row of the outbox, or nothing."""
_NO_ROW = (None, None, None)
_GENERATIONS = msgspec.json.Decoder(dict[str, int])

AHEAD: Final = "the cursor is ahead of L3, which went back in time"
UNPROVEN: Final = "L3 was started anew, and what was delivered last is not in its outbox any more"
WENT_BACK: Final = frozenset({AHEAD, UNPROVEN})
"""Reasons to begin anew that mean: L3 may be an older copy, under the identity of what came after it."""
LEFT_MAX: Final = 1000
OPERATIONS: Final = {
    b"i": ChangeOperation.INSERT,
    b"u": ChangeOperation.UPDATE,
    b"d": ChangeOperation.DELETE,
    b"t": ChangeOperation.TRUNCATE,
    b"m": ChangeOperation.MANY,
    b"v": ChangeOperation.VOID,
}


def question(cursor: Cursor | None, start: str, *, announce: bool, newest: bool, tags: bool) -> tuple[str, list[Any]]:
    """The statement and its arguments.

    Args:
        start: when the server that is asked was started.
        newest: ask for the newest row too, in case the cursor cannot be continued.
        tags: ask for the generations of tags that the cursor does not know.
    """
    if cursor is None:
        return POLL, [None, [], announce, True, 0 if tags else ANY_VERSION]
    running = [str(xid) for xid in cursor.snapshot.running]
    known = cursor.coherence.tag if tags else ANY_VERSION
    arguments = [str(cursor.snapshot.xmax), running, announce, newest or not cursor.anchor, known]
    if is_of_start(cursor, start):
        return POLL, arguments
    seq, xid, at = cursor.anchor[1:] or _NO_ROW
    return POLL_AFTER_RESTART, [*arguments, None if seq is None else int(seq), xid, at]


def answer(cursor: Cursor | None, start: str, records: Sequence[Record]) -> Poll:
    """What the records say: one of identity, then rows of the outbox."""
    identity, rows = records[0], records[1:]
    coherence = read_coherence(identity["incarnation"], identity["generations"])
    snapshot = Snapshot.parse(identity["snapshot"])
    tags = {} if identity["tags"] is None else _GENERATIONS.decode(identity["tags"])
    newest = [tuple(identity["newest"] or ()), *((str(row["seq"]), row["xid"], row["at"]) for row in rows[-1:])]
    reset = None if cursor is None else _why_not(cursor, coherence, snapshot, identity)
    if cursor is None or reset is not None:
        return Poll(Cursor(coherence, snapshot, _anchor(start, newest)), reset=reset, tags=tags)
    changes = [change for row in rows for change in _changes(row)]
    return Poll(Cursor(coherence, snapshot, _anchor(start, [cursor.anchor[1:], *newest])), changes, tags=tags)


def _changes(row: Record) -> list[Change]:
    """Of one row: each key that its statement changed."""
    kind, xid = row["kind"], int(row["xid"])
    # A newer server's migration may tell of what this one has no word for: its keys are fenced all the same.
    operation = OPERATIONS.get(row["op"], ChangeOperation.UPDATE)
    return [
        Change(Key(kind, identifier), version, operation, xid)
        for identifier, version in zip(row["ids"], row["versions"], strict=True)
    ]


def went_back(cursor: Cursor | None, poll: Poll, left: set[UUID]) -> bool:
    """Whether an answer to a cursor proves that L3 is an older copy.

    Args:
        left: incarnations that came to their end, as far as one reader knows; the answer may add one. A crash makes
            a new one, so that only older files bring one back.
    """
    if cursor is None or poll.reset is None:
        return False
    before, now = cursor.coherence.incarnation, poll.cursor.coherence.incarnation
    if before != now and len(left) < LEFT_MAX:
        left.add(before)
    return poll.reset in WENT_BACK or now in left


def is_of_start(cursor: Cursor, start: str) -> bool:
    """Whether the cursor needs no proof that a server started then is the one it comes from."""
    return cursor.anchor[:1] in {(), (start,)}


def read_coherence(incarnation: str, generations: bytes) -> Coherence:
    """The identity, from its columns."""
    return Coherence(UUID(incarnation), _GENERATIONS.decode(generations))


def _why_not(cursor: Cursor, coherence: Coherence, snapshot: Snapshot, identity: Record) -> str | None:
    """Why the cursor cannot be continued."""
    horizon, changes = identity["horizon"], identity["changes"]
    if cursor.coherence.incarnation != coherence.incarnation:
        return "L3 is another incarnation: it crashed, failed over or was restored"
    if not snapshot.covers(cursor.snapshot) or cursor.coherence.highest > coherence.highest:
        return AHEAD
    if not identity["proven"]:
        return UNPROVEN
    if horizon is not None and not cursor.snapshot.covers(Snapshot.parse(horizon)):
        return "the cursor is older than what the outbox is sure to hold still"
    if changes is not None and changes > CHANGES_MAX:
        return f"the cursor is too far behind: more than {CHANGES_MAX} changes"
    return None


def _anchor(start: str, rows: Sequence[Row]) -> tuple[str, ...]:
    return (start, *max((row for row in rows if row), key=lambda row: int(row[0]), default=()))
