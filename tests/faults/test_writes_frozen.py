"""Servers that stand still while another one takes over, and wake up: nothing lost, nothing doubled."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import holdfast
from faults.test_writes_killed import DURABLE, lines_of
from fix_tiers import flows_of
from fix_write_behind import missing, names_in, processes, quick, stored, until_drained, until_lines
from holdfast import Durability, Settings
from holdfast.node import OpenStore

pytestmark = [pytest.mark.timeout(170)]

PREFIX = "z"
KEYS = (f"{PREFIX}-mixed", *(f"{PREFIX}-{each.value}" for each in Durability))


async def check(state: OpenStore, file: Path) -> None:
    """Of all that was acknowledged, also ACCEPTED, everything is in effect, once."""
    rows = await stored(state, *KEYS)
    lines = lines_of(file)
    for key in KEYS:
        assert missing([line.name for line in lines if line.key == key], rows, key) == []


async def thaw(settings: Settings, folder: Path, *changes: str) -> None:
    """Suspend a server beyond the takeover time, while it writes; it goes on afterwards, and closes its store."""
    file = folder / "lines"
    async with holdfast.connect(settings) as taker, processes(settings, folder, 1, *changes) as (zombie,):
        zombie.order("Write", file=str(file), prefix=PREFIX)
        if "stops_inside_a_flush" not in changes:
            await until_lines(file, 100)
            zombie.send(signal.SIGSTOP)
        await zombie.until_stopped()
        journal, before = await zombie.journal(flows_of(taker)), len(lines_of(file))
        await until_drained(flows_of(taker), journal)
        drained = await stored(taker, *KEYS)
        for line in lines_of(file):
            if line.asked in DURABLE:
                assert line.name in names_in(drained[line.key]), f"{line} is lost by the takeover"
        zombie.send(signal.SIGCONT)
        await until_lines(file, before + 100)
        zombie.send(signal.SIGTERM)
        await zombie.told("closed")
        assert await zombie.ended() == 0
        assert flows_of(taker).counters.write_behind.takeovers == 1
        await check(taker, file)


async def test_a_server_that_stood_still_goes_on(settings: Settings, tmp_path: Path) -> None:
    """W9: its journal was drained meanwhile; what it had accepted is in effect once, and so is what it accepts now."""
    await thaw(quick(settings), tmp_path)


async def test_a_server_that_stood_still_inside_its_flush(settings: Settings, tmp_path: Path) -> None:
    """W9: it stops between its last statement and COMMIT: L3 ends the session, and the taker goes on."""
    await thaw(quick(settings), tmp_path, "stops_inside_a_flush")


async def test_writes_that_are_entered_again_though_decided_are_found(settings: Settings, tmp_path: Path) -> None:
    """Mutant of W9: whoever wakes up does not ask what the taker decided, and does it again."""
    with pytest.raises(AssertionError, match="twice"):
        await thaw(quick(settings), tmp_path, "enters_all_again")


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.prove, id="prove_bulk_counted")])
async def test_eight_processes_add_up(settings: Settings, tmp_path: Path, times: int) -> None:
    """Eight processes add 1 to the counters of missing rows: the totals are right at every durability."""
    async with processes(quick(settings, write_behind_takeover_seconds=10.0), tmp_path, 8) as adders:
        for adder in adders:
            adder.order("Count", times=times)
        for adder in adders:
            await adder.told("done")
    async with holdfast.connect(settings) as reader:
        rows = await stored(reader, *(each.value for each in Durability))
    assert {key: row.stats.total_tool_calls for key, row in rows.items()} == {
        each.value: 8 * times for each in Durability
    }
