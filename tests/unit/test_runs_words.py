"""Texts that JSON or L3 has no place for, in what is kept of a fault."""

from __future__ import annotations

import asyncio

import pytest

from fix_run_servers import RUN, hall
from holdfast.documents import RunStatus
from holdfast.errors import LimitExceeded, TierUnavailable
from holdfast.fault_words import in_words
from holdfast.run_context.active_run import ActiveRun

ODD = "cannot open caf\udce9\0.txt"


async def test_a_fault_in_odd_words_is_kept() -> None:
    """Of the step, and of the run."""
    async with hall("a") as at:
        with pytest.raises(OSError, match="cannot open"):
            async with at.a.begin("search", run_id=RUN) as run, run.step("look"):
                raise OSError(ODD)
        assert run.context.steps["look"].error == "OSError: cannot open caf??.txt"
        assert at.row().error == "OSError: cannot open caf??.txt"


async def test_a_run_is_failed_with_words_or_a_fault() -> None:
    """Either is kept as text."""
    async with hall("a") as at:
        for run_id, error, kept in (("r1", ODD, "cannot open caf??.txt"), ("r2", KeyError("x"), "KeyError: 'x'")):
            run = await at.a.begin("search", run_id=run_id)
            await run.fail(error)
            assert at.row(run_id).error == kept


def test_words_are_cut() -> None:
    """An error may quote all of a document."""
    assert len(in_words(ValueError("x" * 10_000), str)) == 2_000


async def test_a_run_that_cannot_be_failed_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of its block: so another server finds it."""

    async def fail(*_: object) -> None:
        raise TierUnavailable("not now")

    monkeypatch.setattr(ActiveRun, "fail", fail)
    async with hall() as at:
        with pytest.raises(ValueError, match="its own"):
            async with at.a.begin("search", run_id=RUN):
                raise ValueError("its own")
        row = at.row()
        assert (row.status, row.owner) == (RunStatus.RUNNING.value, None)
        assert [each.id for each in await at.b.list(orphaned=True)] == [RUN]


async def test_a_cancellation_is_never_replaced() -> None:
    """Also if the context is too full to say that the step was cancelled."""
    async with hall("a", run_bytes_max=2_000) as at:
        run = await at.a.begin("search", run_id=RUN)
        full = asyncio.Event()

        def fill() -> None:
            for size in range(1_700, 2_000):
                run.context["x"] = "y" * size

        async def work() -> None:
            async with run.step("look"):
                with pytest.raises(LimitExceeded):
                    fill()
                full.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await full.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
