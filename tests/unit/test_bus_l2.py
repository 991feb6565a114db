"""The event bus when L2 forgets, is full, or does not say what it did."""

from __future__ import annotations

import asyncio

import pytest

from fix_events import Notes, Stage, finish, wake
from fix_loop import settle
from holdfast.errors import OutcomeUnknown, Overloaded
from holdfast.events import Delivery

RELIABLE = Delivery.RELIABLE


async def test_a_group_goes_on_after_its_stream_vanished(caplog: pytest.LogCaptureFixture) -> None:
    """What lay in it is lost, and a warning says so; what is published afterwards is handled."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        await bus.publish("x", 1, delivery=RELIABLE, key="k")
        await notes.until(1)
        for partition in range(len(stage.hub.contents)):
            stage.hub.lose_stream(partition, 2)
        await bus.publish("x", 2, delivery=RELIABLE, key="k")
        await notes.until(2)
        assert notes.data == [1, 2]
        assert "reader g:** lost its place" in caplog.text


async def test_what_waits_for_l2_is_bounded_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one partition: the next is refused; once what waited is gone there is room again."""
    monkeypatch.setattr("holdfast.invalidation.event_writer.WAITING_BYTES_MAX", 4000)
    stage = Stage()
    async with stage.server() as bus:
        for ends_well in (False, True):
            stage.hub.away = True
            waiting = [
                asyncio.ensure_future(bus.publish("x", "a" * 1000, delivery=RELIABLE, key="k")) for _ in range(4)
            ]
            await settle()
            with pytest.raises(Overloaded, match=r"4 events of [0-9,]+ bytes wait"):
                async with asyncio.timeout(1):
                    await bus.publish("x", "one more", delivery=RELIABLE, key="k")
            stage.hub.away = not ends_well
            await finish(stage, asyncio.gather(*waiting, return_exceptions=True).done)
            assert [each.exception() is None for each in waiting] == [ends_well] * 4
        await bus.publish("x", "there is room", delivery=RELIABLE, key="k")


async def test_a_repeat_that_finds_the_backlog_full_does_not_deny_the_first_attempt() -> None:
    """The first may be what filled it; one that was only refused is told so."""
    stage, notes = Stage(), Notes()
    stage.hub.backlog_max = 1
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        stage.hub.deaf = True
        stage.hub.lose_answers = 1
        publishing = asyncio.ensure_future(bus.publish("x", 0, delivery=RELIABLE, key="k"))
        await finish(stage, publishing.done, step=0.1)
        with pytest.raises(OutcomeUnknown, match="may have been published"):
            publishing.result()
        with pytest.raises(Overloaded):
            await bus.publish("x", 1, delivery=RELIABLE, key="k")
        wake(bus)
        await notes.until(1)
        notes.gate.set()
        assert notes.data == [0]
