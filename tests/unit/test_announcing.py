"""What a poll of the change feed means for subscribers: the topics of the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from holdfast import Bot, Kind
from holdfast.changes import ChangeOperation
from holdfast.invalidation import announcing
from holdfast.invalidation.announcing import Announcer, topics
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import Change, Coherence, Cursor, Poll, Snapshot
from holdfast.testing import ManualClock, MemoryStorage
from holdfast.testing.door import connect_flows

INSERT, UPDATE, DELETE = ChangeOperation.INSERT, ChangeOperation.UPDATE, ChangeOperation.DELETE
VOID, MANY, TRUNCATE = ChangeOperation.VOID, ChangeOperation.MANY, ChangeOperation.TRUNCATE
LIMIT = Kind("limit", Bot, "Limits", configuration=True)
KINDS = register([LIMIT])
SNAPSHOTS = "RunContextSnapshot"
NOW = 1_764_441_649_123
UUIDS = UUID(int=1), UUID(int=2)


def cursor(generations: dict[str, int] | None = None, *, incarnation: UUID = UUIDS[0], life: str = "1") -> Cursor:
    return Cursor(Coherence(incarnation, generations or {"all": 1}), Snapshot(9, 9), (life,))


BEFORE = cursor()


def told(
    *changes: Change,
    before: Cursor | None = BEFORE,
    now: Cursor | None = None,
    reset: str | None = None,
    tags: Sequence[str] = (),
) -> list[tuple[str, dict[str, Any]]]:
    poll = Poll(now or cursor(), changes, reset, dict.fromkeys(tags, 9))
    return list(topics(KINDS, before, poll, lambda: NOW))


def change(kind: str, identifier: str, operation: ChangeOperation = UPDATE) -> Change:
    return Change(Key(kind, identifier), 7, operation, 3)


def update(operation: str, tables: Sequence[str], kinds: Sequence[str], *keys: str, more: int = 0) -> dict[str, Any]:
    return {
        "operation": operation,
        "tables": list(tables),
        "timestamp": NOW,
        "kinds": list(kinds),
        "keys": [key.split(":", 1) for key in keys],
        "more": more,
    }


def test_nothing_of_a_poll_without_changes() -> None:
    """Nor of the first, which goes on from nothing."""
    assert told() == []
    assert told(change("bot", "b1"), before=None) == []


def test_one_event_for_each_operation() -> None:
    """With all tables and keys of the poll, each key once."""
    events = told(
        change("run_snapshot", "r1/1", INSERT),
        change("run_snapshot", "r1/2", INSERT),
        change("run_snapshot", "r1/1", INSERT),
        change("routine", "q:1", DELETE),
        change("run_snapshot", "r2/1", DELETE),
    )
    assert events == [
        ("state/updated", update("insert", [SNAPSHOTS], ["run_snapshot"], "run_snapshot:r1/1", "run_snapshot:r1/2")),
        (
            "state/updated",
            update("delete", ["Routine", SNAPSHOTS], ["routine", "run_snapshot"], "routine:q:1", "run_snapshot:r2/1"),
        ),
        ("routine/modified", update("delete", ["Routine"], ["routine"], "routine:q:1")),
    ]


@pytest.mark.parametrize("kind", ["bot", "team", "swarm", "limit"])
def test_configuration_is_told_as_such(kind: str) -> None:
    """Of bots, teams and swarms, and of own kinds that say so."""
    table = KINDS[kind].table
    data = update("update", [table], [kind], f"{kind}:x")
    assert told(change(kind, "x")) == [("state/updated", data), ("config/changed", data)]


def test_a_change_of_a_kind_that_is_not_known_here_is_not_told() -> None:
    """Another server's own kind: nobody here can read it."""
    assert told(change("strange", "x"), change("strange", "")) == []


def test_at_most_a_hundred_keys_are_named() -> None:
    """And the others are counted."""
    ((_, data),) = told(*(change("run_snapshot", f"r/{number}", INSERT) for number in range(150)))
    assert (len(data["keys"]), data["more"]) == (100, 50)


@pytest.mark.parametrize("operation", [TRUNCATE, MANY])
def test_a_whole_kind_is_a_pattern(operation: ChangeOperation) -> None:
    """The rows are not named; the kind's caches were emptied."""
    data = update(operation.value, ["Routine"], ["routine"])
    assert told(change("routine", "", operation)) == [
        ("state/updated", data),
        ("routine/modified", data),
        ("cache/invalidate_l1", {"pattern": "kind:routine", "reason": operation.value, "timestamp": NOW}),
    ]


def test_a_void_is_no_update() -> None:
    """No row changed; many of one kind are told as the kind."""
    void = {"reason": "void", "timestamp": NOW}
    assert told(change("bot", "b:1", VOID)) == [("cache/invalidate_l1", {"pattern": "bot:b:1", **void})]
    many = (change("bot", f"b{number}", VOID) for number in range(101))
    assert told(*many, change("team", "t", VOID)) == [
        ("cache/invalidate_l1", {"pattern": "team:t", **void}),
        ("cache/invalidate_l1", {"pattern": "kind:bot", **void}),
    ]


def test_generations_that_rose() -> None:
    """Of everything and of kinds known here; a node of L2 that begins anew is no affair of subscribers."""
    now = cursor({"all": 9, "kind:bot": 8, "kind:team": 3, "kind:strange": 7, "l2": 6})
    events = told(before=cursor({"all": 1, "kind:team": 3}), now=now)
    assert [(topic, data["pattern"], data["reason"]) for topic, data in events] == [
        ("cache/invalidate_l1", "all", "void"),
        ("cache/invalidate_l1", "kind:bot", "void"),
    ]


def test_tags_are_patterns() -> None:
    """Very many at once are told as everything."""
    now = cursor({"all": 1, "tag": 9})
    for tags, patterns in (
        (["x", "bot:b1"], ["tag:x", "tag:bot:b1"]),
        ([f"t{number}" for number in range(101)], ["all"]),
    ):
        assert [data["pattern"] for _, data in told(now=now, tags=tags)] == patterns
    assert [topic for topic, _ in told(now=now, tags=["x"], reset="too far behind")] == ["state/reset"]


def test_whatever_cannot_be_continued_is_a_reset() -> None:
    """A poll that says so, another incarnation with it, and another start of L3."""
    reset = ("state/reset", {"reason": "too far behind", "timestamp": NOW})
    assert told(reset="too far behind") == [reset]
    assert told(now=cursor({"all": 99}, incarnation=UUIDS[1]), reset="too far behind") == [reset]
    (topic, data), *others = told(change("routine", "q", INSERT), now=cursor(life="2"))
    assert (topic, "started anew" in data["reason"]) == ("state/reset", True)
    assert [topic for topic, _ in others] == ["state/updated", "routine/modified"]


def test_without_listeners_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll may bring 50,000 changes, four times a second."""
    asked: list[object] = []

    def noted(*given: object) -> tuple[()]:
        asked.append(given)
        return ()

    monkeypatch.setattr(announcing, "topics", noted)
    announcer = Announcer(KINDS, epoch_ms=lambda: NOW)
    announcer.tell(cursor(), Poll(cursor(), [change("bot", "b1")]))
    assert not asked
    announcer.on_topic(lambda topic, data: None)
    announcer.tell(cursor(), Poll(cursor(), [change("bot", "b1")]))
    assert len(asked) == 1


async def test_a_listener_that_raises_harms_neither_the_feed_nor_the_caches() -> None:
    """It is shown; the poll was applied, and the next one is."""
    l3 = MemoryStorage()
    async with connect_flows(l3=l3) as flows:
        seen: list[str] = []
        shown: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))

        def listener(topic: str, _data: Mapping[str, Any]) -> None:
            seen.append(topic)
            raise ZeroDivisionError

        flows.announcer.on_topic(listener)
        await flows.store.bots.put("b1", Bot(name="x"))
        assert await flows.feed.refresh()
        assert flows.feed.fault is None
        assert seen[0] == "state/updated"
        assert await flows.feed.refresh()
        assert {type(each) for each in shown} == {ZeroDivisionError}


async def test_a_crash_of_l3_is_told() -> None:
    """Of the next poll, after the caches were emptied: a handler that reads gets what is now."""
    l3, clock = MemoryStorage(), ManualClock()
    async with connect_flows(l3=l3, clock=clock) as flows:
        await flows.store.bots.put("b1", Bot(name="x"))
        clock.advance(0.1)
        held: list[bool] = []
        flows.announcer.on_topic(
            lambda topic, _: held.append(flows.store.bots.peek("b1") is not None) if topic == "state/reset" else None
        )
        l3.crash()
        await flows.feed.refresh()
        assert held == [False]
