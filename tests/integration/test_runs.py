"""Runs on real servers: damaged snapshots, and owners of before that live, stand still or are dead."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import holdfast
import holdfast.kinds
from fix_feed import connected
from fix_races import until
from fix_write_behind import lines_in, patient, processes, quick, until_lines
from holdfast import Consistency, Settings
from holdfast.errors import ContextCorrupt, NotOwner
from holdfast.node import OpenStore
from holdfast.run_context.snapshots import snapshot_in
from integration.test_events import until_heard

RUN = "run-1"
CHECKPOINTS = 6
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


class Damage:
    """What happens to rows of L3 behind everybody's back."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def body(self, name: str) -> bytes:
        """The JSON of a snapshot."""
        found: bytes | str = await self._sql.fetchval(
            'SELECT document::text FROM holdfast."RunContextSnapshot" WHERE id = $1', f"{RUN}/{name}"
        )
        return found if isinstance(found, bytes) else found.encode()

    async def put(self, name: str, body: bytes) -> bool:
        """Let a snapshot be something else; False: PostgreSQL does not take it for JSON."""
        try:
            await self._change(
                'UPDATE holdfast."RunContextSnapshot" SET document = $2::text::json WHERE id = $1', name, body.decode()
            )
        except (UnicodeDecodeError, asyncpg.DataError):
            return False
        return True

    async def remove(self, name: str) -> None:
        """Let a snapshot be gone."""
        await self._change('DELETE FROM holdfast."RunContextSnapshot" WHERE id = $1', name)

    async def _change(self, statement: str, name: str, *words: str) -> None:
        async with self._sql.transaction():
            await self._sql.execute('ALTER TABLE holdfast."RunContextSnapshot" DISABLE TRIGGER holdfast_stamp')
            await self._sql.execute(statement, f"{RUN}/{name}", *words)
            await self._sql.execute('ALTER TABLE holdfast."RunContextSnapshot" ENABLE ALWAYS TRIGGER holdfast_stamp')


@asynccontextmanager
async def damaged(settings: Settings, **changes: Any) -> AsyncIterator[tuple[OpenStore, OpenStore, Damage, list[Any]]]:
    """Two servers, a run of the first with six snapshots and a tail, let go of; and what the second hears."""
    async with (
        holdfast.connect(patient(settings, **changes)) as old,
        holdfast.connect(patient(settings, **changes)) as new,
        connected(settings.postgres_url) as sql,
    ):
        heard: list[Any] = []
        new.subscribe("routine/state/*", heard.append)
        await until_heard(new)
        run = await old.runs.begin("count", {"topic": "ants"}, run_id=RUN)
        for number in range(1, CHECKPOINTS + 1):
            async with run.step(f"step{number}"):
                run.context["n"] = number
                run.context[f"v{number}"] = "x" * 1000
            await run.checkpoint()
            if (task := run._bases._task) is not None:
                await asyncio.wait([task])
        async with run.step("tail"):
            run.context["tail"] = True
        await run.release()
        yield old, new, Damage(sql), heard


async def check_loss(new: OpenStore, number: int, heard: list[Any]) -> None:
    """Resume a run of which a snapshot is damaged, and hold what is told against what was in it."""
    resumed = await new.runs.resume(RUN)
    kept = number - 1
    lost, context = resumed.lost, resumed.context
    assert context.get("n") == (kept or None)
    assert list(context.steps) == [f"step{each}" for each in range(1, kept + 1)]
    assert sorted(context) == sorted([*(["n"] if kept else []), *(f"v{each}" for each in range(1, kept + 1))])
    assert lost.steps == CHECKPOINTS - kept + 1
    assert set(lost.variables) == {"n", "tail", *(f"v{each}" for each in range(number, CHECKPOINTS + 1))}
    assert (lost.snapshots, lost.unknown) == (CHECKPOINTS - kept, 0)
    assert lost.seconds > 0

    async def told() -> bool:
        return {event.type.rpartition("/")[2] for event in heard} >= {"corrupted", "recovered", "restored"}

    await until(told)
    (recovered,) = [event.data for event in heard if event.type == "routine/state/recovered"]
    assert recovered["dataLoss"]["steps"] == lost.steps
    assert recovered["dataLoss"]["seconds"] == lost.seconds
    context["again"] = 1
    await resumed.checkpoint()
    await resumed.release()
    second = await new.runs.resume(RUN)
    assert not second.lost
    assert second.context["again"] == 1


@pytest.mark.parametrize("name", ["removed", "cut", "swapped", "emptied", "another_runs"])
async def test_a_damaged_snapshot_is_gone_back_behind(settings: Settings, name: str) -> None:
    """The one before is taken, what is lost is told exactly, and the run goes on from there."""
    async with damaged(settings) as (_, new, damage, heard):
        number, body, other = 5, await damage.body("00000005"), await damage.body("00000002")
        if name == "removed":
            await damage.remove("00000005")
        elif name == "cut":
            assert await damage.put("00000005", body[: body.index(b',"previous"')] + b"}")
        elif name == "swapped":
            assert await damage.put("00000005", other)
            assert await damage.put("00000002", body)
            number = 2
        elif name == "emptied":
            assert await damage.put("00000005", b"null")
        else:
            assert await damage.put("00000005", body.replace(RUN.encode(), b"run-2"))
        await check_loss(new, number, heard)


@pytest.mark.parametrize("seed", range(5))
async def test_flipped_bits(settings: Settings, seed: int) -> None:
    """Whatever bit of one of the newest snapshots: it is noticed, and the one before is taken."""
    random_ = random.Random(seed)
    async with damaged(settings) as (_, new, damage, heard):
        number = random_.choice((CHECKPOINTS - 1, CHECKPOINTS))
        body = bytearray(await damage.body(f"{number:08}"))
        while True:
            flipped = bytearray(body)
            flipped[random_.randrange(len(body))] ^= 1 << random_.randrange(8)
            if await damage.put(f"{number:08}", bytes(flipped)):
                break
        await check_loss(new, number, heard)


async def test_every_flip_that_postgresql_stores_is_noticed(settings: Settings) -> None:
    """None of them reads as what was sealed."""
    async with damaged(settings) as (_, _new, damage, _heard):
        body = await damage.body("00000006")
        assert snapshot_in(body) is not None
        for place in range(len(body)):
            flipped = bytearray(body)
            flipped[place] ^= 1 << (place % 7)
            assert snapshot_in(bytes(flipped)) is None, (place, flipped)


async def test_the_newest_bases_are_damaged(settings: Settings) -> None:
    """An earlier one and the deltas behind it have all of it; with no base nothing is given, and nothing changed."""
    async with damaged(settings, run_deltas_per_base=2) as (_, new, damage, heard):
        names = [each.id.rpartition("/")[2] for each in await new.runs.history(RUN)]
        bases = [name for name in names if name.endswith(".base")]
        assert len(bases) > 1
        for name in bases[1:]:
            assert await damage.put(name, b"{}")
        resumed = await new.runs.resume(RUN)
        assert not resumed.lost
        assert (resumed.context["n"], resumed.context["tail"]) == (CHECKPOINTS, True)
        await resumed.pause()

        async def told() -> bool:
            return any(event.type == "routine/state/corrupted" for event in heard)

        await until(told)
        (corrupted,) = [event.data for event in heard if event.type == "routine/state/corrupted"]
        assert corrupted["severity"] == "error"
        await damage.remove(bases[0])
        row = await new.collection(holdfast.kinds.RUN).get(RUN, consistency=Consistency.STRONG)
        with pytest.raises(ContextCorrupt) as corrupt:
            await new.runs.resume(RUN)
        assert corrupt.value.run_id == RUN
        for call in (new.runs.get(RUN), new.runs.fork(RUN)):
            with pytest.raises(ContextCorrupt):
                await call
        assert await new.collection(holdfast.kinds.RUN).get(RUN, consistency=Consistency.STRONG) == row


def numbers_of(file: Path, word: str) -> list[int]:
    """What became of writes, as the owner of before was told."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [int(line[1]) for line in lines if line[0] == word]


def no_signal(_: Any) -> None:
    """It lives on."""


FATES: list[tuple[str, Callable[[Any], None]]] = [
    ("alive", no_signal),
    ("stopped", lambda process: process.send(signal.SIGSTOP)),
    ("killed", lambda process: process.send(signal.SIGKILL)),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("fate", "act"), FATES, ids=[fate for fate, _ in FATES])
async def test_an_owner_of_before_with_acknowledged_writes_in_its_journal(
    settings: Settings, tmp_path: Path, fate: str, act: Callable[[Any], None]
) -> None:
    """S3: the earlier ones are in the context, the later ones are refused, and it is told which."""
    file = tmp_path / "ledger"
    calm = patient(settings, write_behind_takeover_seconds=2.0)
    async with processes(calm, tmp_path) as (owner,), holdfast.connect(calm) as new:
        owner.order("RunOn", file=str(file), run=RUN)
        await until_lines(file, 40)
        act(owner)
        if fate == "stopped":
            await owner.until_stopped()
        before = lines_in(file)
        resumed = await resumed_by(new, force=fate != "killed")
        number = resumed.context["n"]
        assert number >= before - 1
        if fate != "killed":
            owner.send(signal.SIGCONT)
            await owner.told("done")
            committed, refused = numbers_of(file, "committed"), numbers_of(file, "not_owner")
            assert committed == list(range(number + 1))
            assert refused == list(range(number + 1, number + 1 + len(refused)))
        resumed.context["mine"] = 1
        await resumed.complete()
        view = await new.runs.get(RUN, consistency=Consistency.STRONG)
        assert view is not None
        assert {key: each.value for key, each in view.state.variables.items()} == {"n": number, "mine": 1}


async def resumed_by(state: OpenStore, *, force: bool) -> Any:
    """Resume the run, as soon as its owner may be taken for dead."""
    found: list[Any] = []

    async def taken() -> bool:
        try:
            found.append(await state.runs.resume(RUN, force=force))
        except NotOwner:
            return False
        return True

    await until(taken)
    return found[0]


async def test_what_an_orphans_server_left_is_there_after_its_journal_was_taken_over(
    settings: Settings, tmp_path: Path
) -> None:
    """Whoever comes first: the takeover of the journal, or of the run."""
    file = tmp_path / "ledger"
    async with processes(patient(settings), tmp_path) as (owner,), holdfast.connect(quick(settings)) as new:
        owner.order("RunOn", file=str(file), run=RUN)
        await until_lines(file, 40)
        await owner.kill()
        before = lines_in(file)

        async def orphaned() -> bool:
            return [each.id for each in await new.runs.list(orphaned=True)] == [RUN]

        await until(orphaned)
        resumed = await new.runs.resume(RUN)
        assert resumed.context["n"] >= before - 1
        await resumed.complete()
