"""Servers that are told to end while they hold writes: what was accepted is in L3 then, or in the journal."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import asyncpg
import pytest

import holdfast
from fix_tiers import Behind, flows_of
from fix_write_behind import Process, names_in, patient, processes, stored, until_drained
from holdfast import Settings
from holdfast.protocols import JournalState

pytestmark = [pytest.mark.timeout(170)]

FEW = 50


async def terminated(process: Process, keys: int) -> str:
    """Let a server accept writes for so many keys, and end it by SIGTERM; returns what it logged."""
    process.order("Dirty", keys=keys)
    await process.told("done")
    process.send(signal.SIGTERM)
    await process.told("closed")
    assert await process.ended() == 0
    return process.log


async def queried(settings: Settings, query: str) -> object:
    """The one value that L3 answers."""
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def check_taken_over(settings: Settings, process: Process, log: str, state: JournalState) -> None:
    """The log says how many writes stayed where; the next server that starts applies them, each once."""
    told = re.search(r"(\d+) writes stay in journal (\w+)", log)
    assert told is not None, log
    assert int(told[1]) == FEW
    assert await queried(settings, "SELECT journal || state FROM holdfast.journals") == told[2] + state.value
    async with holdfast.connect(patient(settings)) as successor:
        await until_drained(flows_of(successor), told[2])
        rows = await stored(successor, *(f"d{number:05}" for number in range(FEW)))
        assert [names_in(row) for row in rows.values()] == [["1"]] * FEW


@pytest.mark.parametrize("keys", [2000, pytest.param(10_000, marks=pytest.mark.prove, id="prove_bulk_terminated")])
async def test_all_is_in_l3_at_the_end(settings: Settings, tmp_path: Path, keys: int) -> None:
    """SIGTERM with thousands of dirty keys: all are in L3 when the process has ended, and no journal is left."""
    slow = patient(settings, write_behind_takeover_seconds=30.0, write_behind_close_seconds=60.0)
    async with processes(slow, tmp_path) as (process,):
        await terminated(process, keys)
    assert await queried(settings, 'SELECT count(*) FROM holdfast."Chat"') == keys
    assert await queried(settings, "SELECT count(*) FROM holdfast.journals") == 0


async def test_what_l3_does_not_take_is_released(settings: Settings, tmp_path: Path) -> None:
    """L3 lets nothing be written when a server ends: its journal is released, and the next server need not wait."""
    hindering = await asyncpg.connect(settings.postgres_url)
    try:
        async with processes(patient(settings, write_behind_close_seconds=0.5), tmp_path) as (process,):
            await hindering.execute('BEGIN; LOCK TABLE holdfast."Chat" IN EXCLUSIVE MODE')
            log = await terminated(process, FEW)
    finally:
        await hindering.close()
    await check_taken_over(settings, process, log, JournalState.RELEASED)


async def test_with_l3_away_the_journal_keeps_all(settings: Settings, behind_proxy: Behind, tmp_path: Path) -> None:
    """L3 is away when a server ends: nobody can be told, but the next server finds the journal by its beat."""
    away = patient(
        settings, postgres_url=behind_proxy.url, write_behind_close_seconds=0.5, l3_connect_timeout_seconds=2.0
    )
    async with processes(away, tmp_path) as (process,):
        process.order("Dirty", keys=FEW)
        await process.told("done")
        behind_proxy.proxy.refuse()
        behind_proxy.proxy.reset()
        process.send(signal.SIGTERM)
        await process.told("closed")
        assert await process.ended() == 0
    assert "could not be told" in process.log
    await check_taken_over(settings, process, process.log, JournalState.LIVE)
