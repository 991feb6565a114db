"""Takeover over real servers: what a dead server left in its journal is decided by others, each entry once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import holdfast
from fix_tiers import flows_of
from fix_write_behind import die, names_in, noted, patient, stored, until_drained
from holdfast import Durability, Settings, Swarm
from holdfast.flows import Flows
from holdfast.node import OpenStore
from holdfast.protocols import JournalRecord
from holdfast.seq_set import SeqSet
from holdfast.tiers.l3_flush import PostgresFlush
from holdfast.write_behind.pace import Pace

Mutation = Callable[[Flows], None]


def healthy(_: Flows) -> None:
    """No mutant."""


async def put_down(state: OpenStore, key: str, name: str, durability: Durability) -> None:
    await state.swarms.patch(key, *noted(name), default=Swarm(), durability=durability)


async def out_of_order(settings: Settings, mutation: Mutation) -> dict[str, list[str]]:
    """A server dies after its second entry was decided and its first was not; what is in effect after the takeover."""
    async with holdfast.connect(patient(settings)) as dying, holdfast.connect(patient(settings)) as taker:
        mutation(flows_of(taker))
        await put_down(dying, "late", "1", Durability.JOURNALED)
        await put_down(dying, "early", "2", Durability.COMMITTED)
        await put_down(dying, "late", "3", Durability.JOURNALED)
        await until_drained(flows_of(taker), await die(flows_of(dying)))
        rows = await stored(taker, "late", "early")
    return {key: [record.id for record in row.records] for key, row in rows.items()}


async def test_keys_due_out_of_the_order_of_the_journal(settings: Settings) -> None:
    """W4: of a journal whose later entry was applied first, each is applied once."""
    assert await out_of_order(settings, healthy) == {"late": ["1", "3"], "early": ["2"]}


def marked(change: Callable[[SeqSet], SeqSet]) -> Mutation:
    """A mutant that believes other marks than L3 has."""

    def mutate(flows: Flows) -> None:
        base: Any = flows._given.journals
        records, open_flush = base.records, base.open_flush

        async def changed_records() -> Sequence[JournalRecord]:
            return [msgspec.structs.replace(each, decided=change(each.decided)) for each in await records()]

        async def changed_flush(journal: str, epoch: int) -> PostgresFlush:
            flush: PostgresFlush = await open_flush(journal, epoch)
            flush.decided = change(flush.decided)
            return flush

        base.records, base.open_flush = changed_records, changed_flush

    return mutate


def up_to_the_highest(decided: SeqSet) -> SeqSet:
    """One mark for a journal: the highest number that was decided."""
    return SeqSet([(1, max((end for _, end in decided.ranges()), default=1))])


def up_to_a_gap(decided: SeqSet) -> SeqSet:
    """One mark for a journal: the number up to which all were decided."""
    return SeqSet([(1, decided.through + 1)])


async def test_one_mark_for_a_journal_loses_or_doubles(settings: Settings) -> None:
    """Mutants of W4: the highest number as the mark loses what is below; the lowest doubles what is above."""
    assert await out_of_order(settings, marked(up_to_the_highest)) == {"late": ["3"], "early": ["2"]}


async def test_the_lowest_mark_for_a_journal_doubles(settings: Settings) -> None:
    """Mutant of W4: with the number up to which all is decided as the mark, what is decided above is doubled."""
    assert await out_of_order(settings, marked(up_to_a_gap)) == {"late": ["1", "3"], "early": ["2", "2"]}


async def test_a_taker_that_stands_still_is_taken_over_from(settings: Settings) -> None:
    """W9: a second taker goes on where the first one stopped; that one decides nothing more when it wakes up."""
    keys = [f"k{number}" for number in range(12)]
    async with holdfast.connect(patient(settings)) as dying, holdfast.connect(patient(settings)) as first:
        for key in keys:
            await put_down(dying, key, "1", Durability.JOURNALED)
        asleep, awake = asyncio.Event(), asyncio.Event()
        flows_of(first).takeover._pace = Pace(writes=5)
        flushing: Any = flows_of(first).takeover._flushing
        flush = flushing.flush

        async def sleepy(*words: Any) -> Any:
            if flows_of(first).counters.write_behind.takeovers and not asleep.is_set():
                flushing.flush = sleeping
            return await flush(*words)

        async def sleeping(*words: Any) -> Any:
            asleep.set()
            await awake.wait()
            return await flush(*words)

        flushing.flush = sleepy
        journal = await die(flows_of(dying))
        await asleep.wait()
        async with holdfast.connect(patient(settings)) as second:
            await until_drained(flows_of(second), journal)
            assert flows_of(second).counters.write_behind.taken_over == len(keys) - 5
            awake.set()
            await until_looked_again(flows_of(first))
            rows = await stored(second, *keys)
        assert [names_in(rows[key]) for key in keys] == [["1"]] * len(keys)
        assert flows_of(first).counters.write_behind.taken_over == 0


async def until_looked_again(flows: Flows) -> None:
    """Wait until a server has looked at all journals once more."""
    base: Any = flows._given.journals
    records, looked = base.records, asyncio.Event()

    async def noted_records() -> Sequence[JournalRecord]:
        looked.set()
        return await records()  # type: ignore[no-any-return]

    base.records = noted_records
    await looked.wait()
