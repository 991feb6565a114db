"""What the change feed means for subscribers: the seed's topics, with the seed's fields (pure).

Of one poll each topic is told once for each operation, so that a busy feed makes few events. They ride on the feed:
none is lost while a server runs, and whatever cannot be continued, or found no room in a subscriber's queue, is told as
`state/reset`.

| topic | when | data |
|---|---|---|
| `state/updated` | rows changed | operation, tables, timestamp; kinds, keys, more |
| `config/changed` | rows of a kind that is configuration changed | the same, of those kinds |
| `routine/modified` | routines changed | the same, of routines |
| `cache/invalidate_l1` | caches forgot more than rows that changed | pattern, reason, timestamp |
| `state/reset` | caches forgot everything, or much: read again what you keep | reason, timestamp |

`keys` are pairs of kind and id, KEYS_MAX at most, and `more` says how many are not named; `timestamp` is in
milliseconds since 1970. A pattern is ``all``, ``kind:bot``, ``tag:x`` or ``bot:b1``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from holdfast.changes import ChangeOperation
from holdfast.invalidation.topics import CONFIG_CHANGED, INVALIDATE_L1, ROUTINE_MODIFIED, STATE_RESET, STATE_UPDATED
from holdfast.keys import Key
from holdfast.kinds import ROUTINE, Kind
from holdfast.protocols import Change, Coherence, Cursor, Poll

KEYS_MAX: Final = 100
"""Named in one event. Of more voids of one kind the kind is told, of more tags everything."""

Topic = tuple[str, dict[str, Any]]
Listener = Callable[[str, Mapping[str, Any]], None]


class Announcer:
    """Tells the listeners of one server what each poll means. Without any, nothing is computed.

    Args:
        epoch_ms: the time of day, milliseconds since 1970.
    """

    def __init__(self, kinds: Mapping[str, Kind[Any]], *, epoch_ms: Callable[[], int]) -> None:
        self._kinds = kinds
        self._epoch_ms = epoch_ms
        self._listeners: list[tuple[Listener, Callable[[], bool]]] = []

    def on_topic(self, listener: Listener, listens: Callable[[], bool] = lambda: True) -> None:
        """Have a function called with each topic and its data, while it listens; it must neither await nor raise."""
        self._listeners.append((listener, listens))

    def tell(self, before: Cursor | None, poll: Poll) -> None:
        """Tell what a poll brought, which went on from a cursor and was applied."""
        listening = [listener for listener, listens in self._listeners if listens()]
        if not listening:
            return
        for topic, data in topics(self._kinds, before, poll, self._epoch_ms):
            for listener in listening:
                listener(topic, data)


def topics(
    kinds: Mapping[str, Kind[Any]], before: Cursor | None, poll: Poll, epoch_ms: Callable[[], int]
) -> Iterator[Topic]:
    """The events of a poll, the reset first; most polls have none."""
    if before is None:
        return
    if (reason := poll.doubt(before)) is not None:
        yield STATE_RESET, {"reason": reason, "timestamp": epoch_ms()}
    changes = [change for change in poll.changes if change.key.kind in kinds]
    for operation, keys in _by_operation(changes).items():
        yield from _updates(kinds, operation, keys, epoch_ms())
    if poll.reset is not None:
        return
    risen = _risen(kinds, before.coherence, poll.cursor.coherence, poll.tags)
    for pattern, why in (*_voided(changes), *risen):
        yield INVALIDATE_L1, {"pattern": pattern, "reason": why, "timestamp": epoch_ms()}


def _by_operation(changes: Iterable[Change]) -> dict[ChangeOperation, dict[Key, None]]:
    found: dict[ChangeOperation, dict[Key, None]] = {}
    for change in changes:
        if change.operation is not ChangeOperation.VOID:
            found.setdefault(change.operation, {})[change.key] = None
    return found


def _updates(
    kinds: Mapping[str, Kind[Any]], operation: ChangeOperation, keys: Iterable[Key], timestamp: int
) -> Iterator[Topic]:
    keys = list(keys)
    parts = {
        STATE_UPDATED: keys,
        CONFIG_CHANGED: [key for key in keys if kinds[key.kind].configuration],
        ROUTINE_MODIFIED: [key for key in keys if key.kind == ROUTINE.name],
    }
    for topic, part in parts.items():
        if part:
            yield topic, _update(kinds, operation, part, timestamp)


def _update(
    kinds: Mapping[str, Kind[Any]], operation: ChangeOperation, keys: list[Key], timestamp: int
) -> dict[str, Any]:
    named = [key for key in keys if key.id]
    changed = sorted({key.kind for key in keys})
    return {
        "operation": operation.value,
        "tables": [kinds[kind].table for kind in changed],
        "timestamp": timestamp,
        "kinds": changed,
        "keys": [list(key) for key in named[:KEYS_MAX]],
        "more": max(0, len(named) - KEYS_MAX),
    }


def _voided(changes: Iterable[Change]) -> Iterator[tuple[str, str]]:
    """What caches forgot beside rows that were changed one by one: pattern and reason."""
    voids: dict[str, dict[str, None]] = {}
    whole: dict[str, str] = {}
    for change in changes:
        if change.whole_kind:
            whole[change.key.kind] = change.operation.value
        elif change.operation is ChangeOperation.VOID:
            voids.setdefault(change.key.kind, {})[str(change.key)] = None
    for kind, patterns in voids.items():
        if len(patterns) > KEYS_MAX:
            whole.setdefault(kind, ChangeOperation.VOID.value)
        elif kind not in whole:
            yield from ((pattern, ChangeOperation.VOID.value) for pattern in patterns)
    yield from ((f"kind:{kind}", why) for kind, why in whole.items())


def _risen(
    kinds: Mapping[str, Kind[Any]], before: Coherence, now: Coherence, tags: Collection[str]
) -> Iterator[tuple[str, str]]:
    """The generations that rose, of everything, of kinds and of tags; those of L2 alone are no affair of L1."""
    if before is now:
        return
    scopes = ("all", *(f"kind:{kind}" for kind in kinds))
    patterns = [scope for scope in scopes if now.generations.get(scope, 0) > before.generations.get(scope, 0)]
    patterns += ["all"] if len(tags) > KEYS_MAX else [f"tag:{tag}" for tag in tags]
    for pattern in dict.fromkeys(patterns):
        yield pattern, ChangeOperation.VOID.value
