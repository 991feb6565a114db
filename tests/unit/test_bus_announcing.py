"""What a server tells its own subscribers, without promise: to whom, when it is too much, and that nobody else may."""

from __future__ import annotations

import pytest

from fix_events import Notes, Stage
from fix_loop import settle
from holdfast.events import Event, Priority
from holdfast.invalidation.topics import RESERVED
from holdfast.invalidation.verifier import INCONSISTENT


async def test_local_events_reach_broadcasts_of_this_server_only() -> None:
    """No group, no other server."""
    stage, here, group, there = Stage(), Notes(), Notes(), Notes()
    async with stage.server() as a, stage.server() as b:
        a.subscribe("state/*", here)
        a.subscribe("state/*", group, group="g")
        b.subscribe("state/*", there)
        event = await a.publish("other", 1)
        a.deliver_local(Event("e", "state/updated", event.timestamp, event.source, {"table": "User"}))
        await here.until(1)
        await settle()
        assert (here.data, group.data, there.data) == ([{"table": "User"}], [], [])


async def test_what_is_announced_cannot_be_changed() -> None:
    """All handlers get the same."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        bus.subscribe("state/*", notes)
        bus.announce("state/updated", {"keys": [["bot", "b1"]]})
        await notes.until(1)
        with pytest.raises(TypeError):
            notes.data[0]["more"] = 1
        with pytest.raises(TypeError):
            notes.data[0]["keys"][0].append("x")


@pytest.mark.parametrize("pattern", ["state/*", "**"])
async def test_who_is_too_slow_for_the_feed_is_told(pattern: str) -> None:
    """Once while it waits, before all else; what gave way may have been a reset itself, or had to for another event."""
    stage, notes = Stage(queue_max=3), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        subscription = bus.subscribe(pattern, notes)
        bus.announce("state/updated", {"operation": "insert"})
        await notes.until(1)
        for number in range(20):
            bus.announce("state/reset" if number % 2 else "state/updated", {"reason": f"{number}"})
        for number in range(20):
            await bus.publish("state/other", number, priority=Priority.CRITICAL)
        assert len(subscription) == 4
        notes.gate.set()
        await notes.until(5)
        assert [event.type for event in notes.events[:2]] == ["state/updated", "state/reset"]
        assert notes.data[1] == {"reason": "this subscriber was too slow", "timestamp": 1_000_000_000}
        assert [event.type for event in notes.events[2:]] == ["state/other"] * 3
        bus.announce("state/updated", {})
        await notes.until(6)
        assert notes.events[-1].type == "state/updated"


async def test_a_reset_is_told_before_what_it_makes_void() -> None:
    """And gives way last."""
    stage, notes = Stage(), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        bus.subscribe("**", notes)
        for topic in ("state/updated", "state/updated", "state/reset"):
            bus.announce(topic, {})
            await settle()
        notes.gate.set()
        await notes.until(3)
        assert [event.type for event in notes.events] == ["state/updated", "state/reset", "state/updated"]


async def test_who_does_not_listen_to_resets_has_others_told() -> None:
    """Of its own server, that listen to them apart from it; one that was not too slow and needs no reset is not."""
    stage, late, resets, other = Stage(queue_max=3), Notes(), Notes(), Notes()
    late.gate.clear()
    async with stage.server() as bus:
        bus.subscribe("config/*", late)
        bus.subscribe("state/reset", resets)
        bus.subscribe("config/*", other)
        for number in range(5):
            bus.announce("config/changed", {"number": number})
            await settle()
        assert [data["reason"] for data in resets.data] == ["this subscriber was too slow"]
        await other.until(5)
        assert {event.type for event in other.events} == {"config/changed"}


def test_the_store_keeps_its_own_topics_to_itself() -> None:
    """All of them."""
    assert INCONSISTENT in RESERVED
