"""A row that L3 refuses, among many that it takes: it is given up and kept for a person, and nobody waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import holdfast
from fix_tiers import flows_of
from fix_write_behind import die, names_in, noted, patient, stored, until_drained
from holdfast import Durability, Refused, Settings, Swarm
from holdfast.documents import Limits
from holdfast.node import OpenStore
from holdfast.write_behind.entries import decode_entry
from holdfast.write_behind.pace import KEYS_MAX

POISON = "poison"
TOGETHER = 100


async def refuse_poison(settings: Settings) -> None:
    """Let L3 refuse one id."""
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        await connection.execute(f"""ALTER TABLE holdfast."Chat" ADD CONSTRAINT no_poison CHECK (id <> '{POISON}')""")
    finally:
        await connection.close()


async def accept(state: OpenStore, keys: list[str]) -> list[holdfast.Receipt]:
    """One write for each key."""

    async def some(start: int) -> list[holdfast.Receipt]:
        return [
            await state.swarms.patch(key, *noted("1"), default=Swarm(), durability=Durability.ACCEPTED)
            for key in keys[start::TOGETHER]
        ]

    return [receipt for each in await asyncio.gather(*map(some, range(TOGETHER))) for receipt in each]


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.prove, id="prove_bulk_poisoned")])
async def test_one_poisonous_row(settings: Settings, count: int) -> None:
    """W10: of many rows L3 refuses one: all others are in L3, it is one letter, and nothing is repeated for it."""
    await refuse_poison(settings)
    keys = [f"p{number:05}" for number in range(count - 1)]
    keys.insert(count // 3, POISON)
    slow = patient(settings, write_behind_takeover_seconds=60.0, write_behind_commit_seconds=120.0)
    async with holdfast.connect(slow) as state:
        receipts = await accept(state, keys)
        unwritten = await state.flush()
        assert [(each.key.id, each.refused) for each in unwritten] == [(POISON, True)]
        assert len(receipts) == count
        assert sum(receipt.durability is Durability.COMMITTED for receipt in receipts) == count - 1
        flows = flows_of(state)
        (dead,) = await flows._given.journals.letters(limit=10)
        entry = decode_entry(dead.letter.entry, dead.letter.seq, flows._given.kinds, Limits(1 << 20, 64))
        assert (dead.letter.key.id, entry.operations) == (POISON, noted("1"))
        counters = flows.counters.write_behind
        assert (counters.refused, counters.dead_letters, counters.retries) == (1, 1, 0)
        # The batch with it is halved until it is alone; each other half is one transaction.
        assert counters.flushes <= count / KEYS_MAX + KEYS_MAX.bit_length()
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        assert await connection.fetchval('SELECT count(*) FROM holdfast."Chat"') == count - 1
    finally:
        await connection.close()


async def test_a_write_that_is_refused_alone_takes_no_other_with_it(settings: Settings) -> None:
    """W10: writes before and behind it on one key are applied; its own receipt says why it is not."""
    connection = await asyncpg.connect(settings.postgres_url)
    await connection.execute("""
        ALTER TABLE holdfast."Chat" ADD CONSTRAINT no_poison CHECK (document::text NOT LIKE '%poison%')""")
    await connection.close()
    async with holdfast.connect(patient(settings)) as state:
        receipts = [
            await state.swarms.patch("s", *noted(name), default=Swarm(), durability=Durability.ACCEPTED)
            for name in ("1", "2", POISON, "4")
        ]
        assert len(await state.flush()) == 1
        assert names_in((await stored(state, "s"))["s"]) == ["1", "2", "4"]
        assert names_in(await state.swarms.get("s")) == ["1", "2", "4"]
        with pytest.raises(Refused) as refused:
            await receipts[2].reached(Durability.COMMITTED)
        assert refused.value.reason == "poison"
        assert POISON in str(refused.value)


async def test_a_taker_gives_up_poison_too(settings: Settings) -> None:
    """W9, W10: a dead server's poisonous entry does not keep its journal from being drained."""
    await refuse_poison(settings)
    async with holdfast.connect(patient(settings)) as dying, holdfast.connect(patient(settings)) as taker:
        for key in ("a", POISON, "z"):
            await dying.swarms.patch(key, *noted("1"), default=Swarm(), durability=Durability.JOURNALED)
        await until_drained(flows_of(taker), await die(flows_of(dying)))
        rows = await stored(taker, "a", POISON, "z")
        assert {key: names_in(row) for key, row in rows.items()} == {"a": ["1"], "z": ["1"]}
        (dead,) = await flows_of(taker)._given.journals.letters(limit=10)
        assert dead.letter.key.id == POISON
