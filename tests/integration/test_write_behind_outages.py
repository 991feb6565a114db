"""L3 away while writes are accepted: memory is bounded, nothing accepted is lost, and the end of it is no storm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest

import holdfast
from fix_races import until
from fix_tiers import Behind, flows_of
from fix_write_behind import names_in, noted, quick, stored
from holdfast import Durability, Overloaded, Settings, Swarm, TierError, Undecided
from holdfast.node import OpenStore
from holdfast.write_behind import flusher, pace
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.buffer import Buffer

WRITES_MAX = 200
KEYS = tuple(f"s{number}" for number in range(40))
WRITERS = 60
FLUSHES_FEW = 12
"""Transactions that may decide the whole backlog: a few would do."""


@dataclass
class Account:
    """What became of the writes.

    Attributes:
        accepted: by key, those that are owed; of them `undecided` were told so after their time.
        refused: those that were not accepted.
        most: that waited at once.
    """

    accepted: dict[str, list[str]] = field(default_factory=lambda: {key: [] for key in KEYS})
    undecided: int = 0
    refused: set[str] = field(default_factory=set)
    overloaded: int = 0
    most: int = 0


async def write_on(state: OpenStore, writer: int, account: Account) -> None:
    for number in count():
        key, name = KEYS[(writer + number) % len(KEYS)], f"{writer}-{number}"
        try:
            await state.swarms.patch(key, *noted(name), default=Swarm(), durability=Durability.ACCEPTED)
        except Undecided:
            account.undecided += 1
            account.accepted[key].append(name)
        except TierError as fault:
            account.refused.add(name)
            account.overloaded += isinstance(fault, Overloaded)
            await asyncio.sleep(0.01)
        else:
            account.accepted[key].append(name)
        account.most = max(account.most, len(flows_of(state).write_behind.buffer))
        await asyncio.sleep(0)


@asynccontextmanager
async def writing(state: OpenStore, account: Account) -> AsyncIterator[None]:
    """Write at full rate in this block."""
    tasks = [asyncio.ensure_future(write_on(state, writer, account)) for writer in range(WRITERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in outcomes), outcomes


async def outage(settings: Settings, l3: Behind, *, silent: bool) -> tuple[Account, int]:
    """Write through an outage of L3; what became of the writes, and how many transactions decided the backlog."""
    away = quick(
        settings,
        postgres_url=l3.url,
        write_behind_takeover_seconds=20.0,
        write_behind_writes_max=WRITES_MAX,
        write_behind_commit_seconds=1.0,
        l3_connect_timeout_seconds=1.0,
        l3_statement_timeout_seconds=1.0,
    )
    account = Account()
    async with holdfast.connect(away) as state:
        await state.swarms.put_many(dict.fromkeys(KEYS, Swarm()))
        await state.swarms.patch(KEYS[0], *noted("first"))
        account.accepted[KEYS[0]].append("first")
        assert await state.flush() == []  # else a commit may be under way now, whose outcome nobody would know
        fault = l3.proxy.hold() if silent else l3.proxy.refuse()
        if not silent:
            l3.proxy.reset()
        counters = flows_of(state).counters.write_behind
        async with writing(state, account):

            async def overloaded() -> bool:
                return account.overloaded > 100 and account.undecided > 0

            await until(overloaded)
            await read_stale(state)
        before = counters.flushes
        fault.end()
        assert await state.flush(timeout=60) == []
        flushes = counters.flushes - before
        await check(state, account)
        await check_marks(state)
    return account, flushes


async def read_stale(state: OpenStore) -> None:
    """R5: past the bound L1 answers those who allow it, with what was accepted here over it; nobody else."""
    entry = await state.swarms.entry(KEYS[0], max_stale=60.0)
    assert entry is not None
    assert (entry.stale, entry.pending) == (True, True)
    assert len(names_in(entry.value)) > 1
    with pytest.raises(TierError):
        await state.swarms.get(KEYS[0])


async def check(state: OpenStore, account: Account) -> None:
    """What was accepted is in effect, once, and what was refused is not."""
    rows = await stored(state, *KEYS)
    for key, names in account.accepted.items():
        there = names_in(rows[key])
        assert set(names) <= set(there)
        assert not account.refused & set(there)


async def check_marks(state: OpenStore) -> None:
    """What was refused has no number in the journal: each would be a gap in its marks, which every flush writes."""
    await state.swarms.patch(KEYS[0], *noted("last"), durability=Durability.COMMITTED)
    records = await flows_of(state)._given.journals.records()
    assert [len(list(each.decided.ranges())) for each in records] == [1]


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
async def test_an_outage_of_l3(settings: Settings, behind_proxy: Behind, silent: bool) -> None:  # noqa: FBT001
    """Calls wait for their commit when half of the room is taken, are refused when all is, and nothing is lost."""
    account, flushes = await outage(settings, behind_proxy, silent=silent)
    assert account.most <= WRITES_MAX
    assert 0 < flushes <= FLUSHES_FEW


async def test_a_buffer_without_bounds_is_found(
    settings: Settings, behind_proxy: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the buffer takes more than it has room for; the same outage finds it.

    While L3 is known to be away half of the room is all that is taken; so that is switched off, too.
    """
    is_full = Buffer.is_full
    monkeypatch.setattr(WriteBehind, "_check_pace", lambda *_: None)
    monkeypatch.setattr(Buffer, "is_full", lambda buffer, size: len(buffer) > 2 * WRITES_MAX and is_full(buffer, size))
    account, _ = await outage(settings, behind_proxy, silent=False)
    assert account.most > WRITES_MAX


async def test_a_transaction_for_each_key_is_found(
    settings: Settings, behind_proxy: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: each key is decided by a transaction of its own; the end of the same outage is a storm."""
    monkeypatch.setattr(pace, "KEYS_MAX", 1)
    monkeypatch.setattr(flusher, "Pace", lambda: pace.Pace(keys=1))
    _, flushes = await outage(settings, behind_proxy, silent=False)
    assert flushes > FLUSHES_FEW
