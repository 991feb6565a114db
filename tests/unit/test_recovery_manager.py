"""How recoveries end, late ones too, and what their repeating costs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from typing import Any

import msgspec
import pytest

from fix_recovery import Scene, scene
from holdfast import Bot, Escalation
from holdfast.errors import SerializationFailure, TierUnavailable
from holdfast.protocols import Source
from holdfast.recovery import manager as managing
from holdfast.recovery.classification import classify
from holdfast.recovery.handlers import ATTEMPT_SECONDS, Case, Done, Outcome
from holdfast.recovery.manager import RecoveryManager
from holdfast.recovery.pacing import RetryBudget
from holdfast.recovery.probing import PATIENCE_SECONDS, Prober
from holdfast.recovery.strategies import (
    ATTEMPTS_MAX,
    Fallback,
    FallbackOption,
    RecoveryAction,
    RecoveryStep,
    StateErrorType,
)
from holdfast.recovery.telling import End
from holdfast.transactions import Transaction

ASKED = Escalation(
    subject="bot:b1", failed="x", recovery_id="rec1", error_type="state_corruption", decision="read_only_mode"
)


def equip(at: Scene, **means: Any) -> None:
    """Let handlers work with other means."""
    handlers = at.flows.recovery._handlers
    handlers._means = dataclasses.replace(handlers._means, **means)


def fall_back_by(at: Scene, handler: Any) -> None:
    """Let one fallback be done by another handler."""
    handlers = at.flows.recovery._handlers
    handlers.fallbacks = {**handlers.fallbacks, Fallback.READ_ONLY_MODE: handler}


async def effective(_case: Case, _option: FallbackOption) -> Done:
    """A fallback that takes effect."""
    await asyncio.sleep(0)
    return Done(Outcome.DONE, "done")


async def test_a_late_fallback_is_an_end_too() -> None:
    """The component hears of it, it is counted, and the log's last word is no longer that a person is asked."""
    async with scene() as at:
        fall_back_by(at, effective)
        at.flows.recovery.decided(ASKED)
        end = await at.completed()
        assert (end["recoveryId"], end["outcome"]) == ("rec1", "degraded")
        assert end["tried"] == [{"step": "read_only_mode", "outcome": "done"}]
        assert at.counters.degraded == 1
        assert await at.lines() == [("read_only_mode", "done"), ("completed", "degraded")]


async def test_a_fallback_for_which_there_is_no_place_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its escalation is decided: nobody else would say that nothing was done."""
    monkeypatch.setattr(managing, "FALLING_BACK_MAX", 0)
    async with scene() as at:
        at.flows.recovery.decided(ASKED)
        assert (await at.completed())["outcome"] == "failed"
        assert await at.lines() == [("read_only_mode", "failed"), ("completed", "failed")]


async def stopped_meanwhile(at: Scene, monkeypatch: pytest.MonkeyPatch, patience: float) -> list[tuple[str, str]]:
    """What is recorded of a fallback under way when its server ends, which waits for so long."""
    may, began = asyncio.Event(), asyncio.Event()

    async def slow(case: Case, option: FallbackOption) -> Done:
        began.set()
        await may.wait()
        return await effective(case, option)

    fall_back_by(at, slow)
    at.flows.recovery.decided(ASKED)
    await began.wait()
    monkeypatch.setattr(managing, "STEP_SECONDS", patience)
    stopping = asyncio.create_task(at.flows.recovery.stop())
    await asyncio.wait([stopping], timeout=0.01)
    may.set()
    await stopping
    return await at.lines()


async def test_an_end_waits_for_fallbacks_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes back to them."""
    async with scene() as at:
        assert await stopped_meanwhile(at, monkeypatch, 60.0) == [("read_only_mode", "done"), ("completed", "degraded")]


async def test_mutant_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what was decided for is given up, and that alone is on record."""
    async with scene() as at:
        given_up = [("read_only_mode", "failed"), ("completed", "failed")]
        assert await stopped_meanwhile(at, monkeypatch, 0.0) == given_up


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs is given up, and the log does not say that nothing was done."""
    began = asyncio.Event()

    async def hanging(_case: Case, _option: FallbackOption) -> Done:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with scene() as at:
        fall_back_by(at, hanging)
        at.flows.recovery.decided(ASKED)
        await began.wait()
        monkeypatch.setattr(managing, "STEP_SECONDS", 0.01)
        await at.flows.recovery.stop()
        assert not at.flows.recovery._falling_back
        assert await at.lines() == [("read_only_mode", "failed"), ("completed", "failed")]
        (step, _) = await at.log.list(limit=10)
        assert step.line.detail == "the server stopped before it was done; it may have taken effect"


async def test_a_handlers_own_timeout_is_told_as_its_own() -> None:
    """It says nothing of the time that a step may take."""

    async def timed_out(_case: Case, _option: FallbackOption) -> Done:
        raise TimeoutError("the webhook said nothing")

    async with scene() as at:
        fall_back_by(at, timed_out)
        at.flows.recovery.decided(ASKED)
        await at.completed()
        await at.lines()
        details = [each.line.detail for each in await at.log.list(limit=10) if each.line.step == "read_only_mode"]
        assert details == ["TimeoutError: the webhook said nothing"]


class Latest(random.Random):
    """Draws the most each time."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


async def attempts_of(at: Scene, monkeypatch: pytest.MonkeyPatch, **means: Any) -> tuple[int, float, Done | None]:
    """How often a retry of as many attempts as there may be asks, for how long it pauses, and what comes of it."""
    paused, asked = 0.0, 0

    async def pause(seconds: float) -> None:
        nonlocal paused
        paused += seconds

    async def away(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise TierUnavailable("away")

    monkeypatch.setattr(Prober, "check", away)
    equip(at, sleep=pause, random_=Latest(), **means)
    step = RecoveryStep(action=RecoveryAction.RETRY_OPERATION, max_attempts=ATTEMPTS_MAX)
    case: Any = at.flows.recovery._left(
        "rec1", StateErrorType.CACHE_FAILURE, "bot:b1", Fallback.READ_ONLY_MODE, run_id=None, swarm_id=None
    )
    passing = msgspec.structs.replace(case.report, classification=classify(TierUnavailable("away"), Source.L2))
    case = msgspec.structs.replace(case, report=passing)
    done: Done | None = None
    with contextlib.suppress(TierUnavailable):
        done = await at.flows.recovery._handlers._retry(case, step)
    return asked, paused, done


async def test_all_attempts_of_a_retry_fit_into_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each waits as long as it may for an answer."""
    async with scene() as at:
        asked, paused, _ = await attempts_of(at, monkeypatch)
        assert asked == ATTEMPTS_MAX
        assert paused + asked * PATIENCE_SECONDS <= ATTEMPTS_MAX * ATTEMPT_SECONDS


async def test_recovery_repeats_out_of_the_processs_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three left it asks three times, and says why it does not go on."""
    async with scene() as at:
        budget = RetryBudget(reserve=3.0)
        asked, _, done = await attempts_of(at, monkeypatch, retries=budget)
        assert asked == 3
        assert done == Done(Outcome.FAILED, "after 3 attempts this process may repeat no more calls")


async def test_recovery_has_the_budget_of_all_others() -> None:
    """Not one of its own."""
    async with scene() as at:
        assert at.flows.recovery._handlers._means.retries is at.flows.retries is at.flows.transactions.retries


async def test_the_budget_grows_by_what_l3_answers() -> None:
    """A read, a write and a transaction count once each, however often the latter was made again."""
    async with scene() as at:
        budget = at.flows.retries
        budget._left = 0.0
        await at.flows.store.bots.put("b9", Bot())
        assert budget._left == pytest.approx(0.1)
        at.flows.caches["bot"].flush()
        at.l2.forget()
        await at.flows.store.bots.get("b9")
        assert budget._left == pytest.approx(0.2)
        attempts = 0

        async def contended(transaction: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await transaction.bots.put("b9", Bot(name="Ada"))
            if attempts < 3:
                raise SerializationFailure("others were in the way")

        await at.flows.transactions.transact(contended)
        assert attempts == 3
        assert budget._left == pytest.approx(0.3)


async def test_a_feed_that_is_away_is_looked_at_until_it_is_heard() -> None:
    """Caches give way to L3 without anybody's help: no fallback is tried, and none could do anything."""
    async with scene() as at:
        at.flows.feed.fault = TierUnavailable("the feed is silent")
        at.flows.recovery.report(at.flows.feed.fault, Source.FEED)
        assert (await at.completed())["outcome"] == "degraded"
        at.flows.feed.fault = None
        await at.so(lambda: at.counters.returned == 1)
        steps = [step for step, _ in await at.lines()]
        assert steps[-2:] == ["completed", "returned"]
        assert not set(steps) & set(Fallback)


async def test_mutant_its_fallbacks_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its end says that recovery failed, where all is served."""
    walk = RecoveryManager._walk

    async def as_any(self: RecoveryManager, case: Case) -> Any:
        end, option = await walk(self, case)
        option = option or await self._first_of(case.fallbacks, case)
        return (end if option is not None else End.FAILED), option

    monkeypatch.setattr(RecoveryManager, "_walk", as_any)
    async with scene() as at:
        at.flows.feed.fault = TierUnavailable("the feed is silent")
        at.flows.recovery.report(at.flows.feed.fault, Source.FEED)
        assert (await at.completed())["outcome"] == "failed"
