"""Accepted writes while their servers are killed or stand still: JOURNALED and COMMITTED ones take effect, each once.

What was ACCEPTED alone may be lost, and only what lies behind the last entry of the journal that was acknowledged.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

import holdfast
from fix_tiers import flows_of
from fix_write_behind import Process, names_in, quick, stored, until_drained, until_lines
from holdfast import Durability, Settings, Swarm
from holdfast.node import OpenStore

pytestmark = [pytest.mark.timeout(170)]

LINES_MAX = 300
"""Acknowledgements after which a writer is killed at the latest."""
DURABLE = {Durability.JOURNALED, Durability.COMMITTED}


@dataclass
class Line:
    """An acknowledgement; see `write_behind_child.Ledger`."""

    place: int
    key: str
    name: str
    asked: Durability
    reached: Durability
    follows: int
    at: float


@dataclass
class Toll:
    """What the kills did.

    Attributes:
        rounds: kills.
        acknowledged: writes, by durability.
        in_effect: writes that took effect, acknowledged or not.
        lost: those that were acknowledged as durable and are not in effect.
        accepted_lost: those that were only ACCEPTED, by how many seconds before the kill they were acknowledged.
        beyond: those of them before a write that was durable.
    """

    rounds: int = 0
    acknowledged: dict[Durability, int] = field(default_factory=lambda: defaultdict(int))
    in_effect: int = 0
    lost: list[Line] = field(default_factory=list)
    accepted_lost: list[float] = field(default_factory=list)
    beyond: list[Line] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.acknowledged[each]} {each.value}" for each in Durability)
        window = f"{max(self.accepted_lost, default=0.0) * 1000:.1f} ms"
        return (
            f"{self.rounds} kills; acknowledged {counts}; in effect {self.in_effect}; lost {len(self.lost)}; of the"
            f" accepted ones {len(self.accepted_lost)}, acknowledged up to {window} before the kill\n"
        )


def lines_of(file: Path) -> list[Line]:
    """What was acknowledged so far, in its order."""
    found = []
    for place, line in enumerate(file.read_text().splitlines()):
        key, name, asked, reached, follows, at = line.split()
        found.append(Line(place, key, name, Durability(asked), Durability(reached), int(follows), float(at)))
    return found


def judge(lines: list[Line], rows: dict[str, Swarm], killed_at: float, toll: Toll) -> None:
    """Compare what was acknowledged with what is in effect."""
    there = {key: set(names_in(row)) for key, row in rows.items()}
    # What is in the journal comes behind all that was accepted before. What was committed earlier is left out of it.
    behind = max((line.follows for line in lines if line.reached is Durability.JOURNALED), default=0)
    for line in lines:
        toll.acknowledged[line.asked] += 1
        if line.name in there.get(line.key, set()):
            continue
        if line.asked in DURABLE:
            toll.lost.append(line)
        else:
            toll.accepted_lost.append(killed_at - line.at)
            if line.place < behind:
                toll.beyond.append(line)
    toll.in_effect += sum(map(len, there.values()))
    toll.rounds += 1


async def kill_one(writer: Process, survivor: OpenStore, file: Path, lines_min: int, toll: Toll) -> None:
    """Let a process write until it has so many acknowledgements, kill it, and judge what another server makes of it."""
    prefix = f"round-{toll.rounds}"
    writer.order("Write", file=str(file), prefix=prefix)
    await until_lines(file, lines_min)
    await writer.kill()
    killed_at = monotonic()
    await until_drained(flows_of(survivor), await writer.journal(flows_of(survivor)))
    rows = await stored(survivor, f"{prefix}-mixed", *(f"{prefix}-{each.value}" for each in Durability))
    judge(lines_of(file), rows, killed_at, toll)


async def kills(settings: Settings, folder: Path, *changes: str, rounds: int, seed: int) -> Toll:
    """Kill writers, one after the other; the next one starts meanwhile."""
    source, toll = random.Random(seed), Toll()
    async with holdfast.connect(settings) as survivor:
        spare = await Process.start(settings, folder / "log-0", *changes)
        for number in range(1, rounds + 1):
            writer, spare = spare, await Process.start(settings, folder / f"log-{number}", *changes)
            try:
                await writer.told("ready")
                await kill_one(writer, survivor, folder / f"lines-{number}", source.randint(1, LINES_MAX), toll)
            finally:
                await writer.kill()
        await spare.kill()
    return toll


async def test_nothing_durable_is_lost_by_kills(settings: Settings, tmp_path: Path) -> None:
    """W4, W9: ten writers are killed: what was durable is in effect, once, and of the rest only the end is not."""
    toll = await kills(quick(settings), tmp_path, rounds=10, seed=1)
    sys.stdout.write(str(toll))
    assert toll.lost == []
    assert toll.beyond == []
    assert all(toll.acknowledged[each] > 0 for each in Durability)


async def test_a_journal_that_gets_nothing_is_found(settings: Settings, tmp_path: Path) -> None:
    """The same kills find a server that acknowledges before L2 has anything."""
    toll = await kills(quick(settings), tmp_path, "journals_nothing", rounds=2, seed=1)
    assert any(line.asked is Durability.JOURNALED for line in toll.lost)


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_kills(settings: Settings, tmp_path: Path) -> None:
    """The same with 200 kills."""
    toll = await kills(quick(settings), tmp_path, rounds=200, seed=2)
    sys.stdout.write(str(toll))
    assert toll.lost == []
    assert toll.beyond == []
