"""Secrets on real servers: no byte of them is in any file, nor in a journal."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_secrets import OLD
from fix_tiers import flows_of
from fix_write_behind import die, patient, processes, until_drained, until_lines
from holdfast import ActiveRun, Consistency, Settings
from holdfast.embedded.servers import EmbeddedOptions
from holdfast.node import OpenStore
from holdfast.run_context import secrets as secrets_of_runs

STEPS = 4
AT_ONCE = 10
TABLES = """
SELECT attrelid::regclass::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'holdfast'::regnamespace AND relkind IN ('r', 'p') AND attname = 'document'"""


class Needles:
    """Random secrets, and public markers beside them, which are found wherever what is beside them is."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:12]
        self._pattern = re.compile(self._prefix.encode() + b"([sm])[0-9a-f]{32}")
        self.secrets: list[str] = []

    def secret(self) -> str:
        """Another one."""
        self.secrets.append(f"{self._prefix}s{uuid.uuid4().hex}")
        return self.secrets[-1]

    def marker(self) -> str:
        """Another one."""
        return f"{self._prefix}m{uuid.uuid4().hex}"

    def found_in(self, content: bytes) -> tuple[int, int]:
        """How many secrets are in it, and how many markers; each once."""
        found = {each[0]: each[1] for each in self._pattern.finditer(content)}
        return sum(sort == b"s" for sort in found.values()), sum(sort == b"m" for sort in found.values())

    def shaped(self, number: int) -> Any:
        """A value that holds one: as text, or deeper."""
        secret = self.secret()
        return (secret, {"user": "anna", "password": secret}, [{secret: 1}], (1, [secret]))[number % 4]


@asynccontextmanager
async def uncompressed(settings: Settings) -> AsyncIterator[Settings]:
    """Servers whose documents are in L2's and L3's files as they are: what is compressed could not be searched."""
    async with connected(settings.postgres_url) as sql:
        for (table,) in await sql.fetch(TABLES):
            await sql.execute(f"ALTER TABLE {table} ALTER COLUMN document SET STORAGE EXTERNAL")
        yield msgspec.structs.replace(settings, l2_compress_above_bytes=1 << 30, master_keys=(OLD,))
        await sql.execute("CHECKPOINT")


async def work(state: OpenStore, needles: Needles, number: int) -> ActiveRun:
    """A run with secrets from its beginning, with a child that inherits them, in its steps, and in what goes wrong."""
    begins_with = {f"b{each}": needles.shaped(each) for each in range(AT_ONCE)}
    run = await state.runs.begin("search", {"marker": needles.marker()}, secrets=begins_with, run_id=f"r{number}")
    child = await state.runs.begin("look", parent=run)
    child.context["marker"] = needles.marker()
    await child.checkpoint()
    await child.fail(f"{child.context['b0']} was refused")
    for step in range(STEPS):
        run.context["marker"] = needles.marker()
        with contextlib.suppress(PermissionError):
            async with run.step(f"s{step}"):
                set_secrets(run, needles, step)
        if step < number % STEPS:
            await run.checkpoint()
    return run


def set_secrets(run: ActiveRun, needles: Needles, step: int) -> None:
    """Set some, and raise what quotes all of them."""
    for each in range(AT_ONCE):
        level = ("secret", "pii")[each % 2]
        run.context.set(f"s{step}-{each}", needles.shaped(each), sensitivity=level)
    raise PermissionError(f"{run.context['b0']} was refused: {dict(run.context)}")


async def journal_of(state: OpenStore) -> bytes:
    """All that L2 has of a server's journal: an XRANGE over its stream."""
    flows = flows_of(state)
    life = flows.write_behind.lives.current
    assert life is not None
    entries = await flows._given.streams.read(life.name, after=0, limit=10_000)
    return b"\n".join(body for _, body in entries)


async def carried_through(settings: Settings, needles: Needles, runs: int) -> bytes:
    """Runs with secrets on a server that dies with them in its journal, and on the one that takes over."""
    limits = {"run_bytes_max": 700 * 1024}
    async with (
        holdfast.connect(patient(settings, **limits)) as dying,
        holdfast.connect(patient(settings, **limits)) as taker,
    ):
        contexts = {run.id: dict(run.context) for run in [await work(dying, needles, each) for each in range(runs)]}
        journaled = await journal_of(dying)
        await until_drained(flows_of(taker), await die(flows_of(dying)))
        for run_id, values in contexts.items():
            assert await taker.runs.get(run_id, consistency=Consistency.STRONG) is not None
            resumed = await taker.runs.resume(run_id)
            assert dict(resumed.context) == values
            await resumed.complete()
    return journaled


def searched(home: Path, needles: Needles) -> Mapping[str, list[int]]:
    """By sort of file, how many secrets and how many markers are found in it."""
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in (Path(folder, name) for folder, _, names in os.walk(home) for name in names):
        parts = file.relative_to(home).parts
        sort = "wal" if "pg_wal" in parts else "tables" if "base" in parts else "valkey" if _is_aof(file) else "others"
        try:
            held = file.read_bytes() if file.is_file() else b""
        except FileNotFoundError:  # of another test's database, which was dropped just now
            continue
        secrets, markers = needles.found_in(held)
        totals[sort][0] += secrets
        totals[sort][1] += markers
    return totals


def _is_aof(file: Path) -> bool:
    return any(part.startswith("appendonly") for part in file.parts)


async def test_no_file_has_a_byte_of_1000_secrets(settings: Settings, server_options: EmbeddedOptions) -> None:
    """PostgreSQL's tables and WAL, Valkey's append-only files, logs, and the journal of a server that has died.

    The public markers beside them are found in each, so the secrets would be.
    """
    needles = Needles()
    async with uncompressed(settings) as servers:
        journaled = await carried_through(servers, needles, 20)
    assert len(needles.secrets) == 1_000
    found = {**searched(server_options.home, needles), "journal": list(needles.found_in(journaled))}
    assert {sort: secrets for sort, (secrets, _) in found.items() if secrets} == {}
    for sort in ("tables", "wal", "valkey", "journal"):
        assert found[sort][1] >= 20, (sort, found)


async def test_a_killed_process_leaves_none_in_its_journal(settings: Settings, tmp_path: Path) -> None:
    """What it had journaled is ciphertext; the server that takes over goes on with the secrets."""
    needles, file = Needles(), tmp_path / "lines"
    values = [needles.secret() for _ in range(50)]
    sealing = patient(settings, master_keys=(OLD,))
    async with processes(sealing, tmp_path) as (process,), holdfast.connect(sealing) as taker:
        process.order("Hide", file=str(file), run="r1", secrets=values, marker=needles.marker())
        await until_lines(file, len(values))
        journal = await process.journal(flows_of(taker))
        entries = await flows_of(taker)._given.streams.read(journal, after=0, limit=10_000)
        assert len(entries) == len(values)
        assert needles.found_in(b"\n".join(body for _, body in entries)) == (0, 1)
        await process.kill()
        await until_drained(flows_of(taker), journal)
        resumed = await taker.runs.resume("r1")
        assert [resumed.context[f"v{number}"] for number in range(len(values))] == values
        await resumed.complete()


async def test_without_sealing_the_search_finds_them(
    settings: Settings, server_options: EmbeddedOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: no variable counts as secret. They are then in all that is searched."""
    monkeypatch.setattr(secrets_of_runs, "is_secret", lambda *_: False)
    needles = Needles()
    async with uncompressed(settings) as servers:
        journaled = await carried_through(servers, needles, 4)
    found = {**searched(server_options.home, needles), "journal": list(needles.found_in(journaled))}
    for sort in ("tables", "wal", "valkey", "journal"):
        assert found[sort][0] >= 50, (sort, found)
