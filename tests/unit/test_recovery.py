"""Recovery from faults of state: what is done about each, by whom it is told, and that it keeps nobody waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_recovery import Scene, scene
from holdfast import Bot, Kind, Swarm
from holdfast.errors import (
    ContextCorrupt,
    CorruptDocument,
    InvalidDocument,
    InvalidKey,
    OutcomeUnknown,
    StorageFull,
    TierUnavailable,
)
from holdfast.events import Event
from holdfast.keys import Key
from holdfast.protocols import Coherence, Source, Withdrawal, Write
from holdfast.protocols.guards import TierHealth
from holdfast.recovery.breaker import Circuit
from holdfast.recovery.handlers import Case, Done, Outcome
from holdfast.recovery.health import HealthKeeper
from holdfast.recovery.leaders import ALERT, LeaderNotice
from holdfast.recovery.manager import RecoveryManager
from holdfast.recovery.reports import FaultReports
from holdfast.recovery.strategies import (
    Fallback,
    FallbackOption,
    RecoveryAction,
    RecoveryStep,
    Severity,
    StateErrorType,
    StateRecoveryStrategy,
)
from holdfast.testing import MemoryCache
from holdfast.testing.memory_guard import MemoryGuard

B1, B2 = Key("bot", "b1"), Key("bot", "b2")
DAMAGED = b"\0 no entry"
BAD = b'{"name": 7}'
WORDS = "bot:b1 does not hold what it should at name: Expected `str`, got `int`"


async def put_in_l2(at: Scene, name: str = "Ada") -> None:
    """A bot that L2 holds and L1 does not."""
    await at.flows.store.bots.put("b1", Bot(name=name))

    async def held() -> bool:
        at.clock.advance(0.1)
        await at.flows.feed.refresh()
        at.flows.caches["bot"].flush()
        await at.flows.store.bots.get("b1")
        return at.l2.dump()["memory-0"].held[B1].entry.row is not None

    await until(held)
    at.flows.caches["bot"].flush()


def watch_by(at: Scene, **guards: Any) -> None:
    """Let recovery ask other guards than the server has."""
    handlers = at.flows.recovery._handlers
    handlers._means = dataclasses.replace(handlers._means, **guards)


def spoil(at: Scene, key: Key, body: bytes = BAD) -> None:
    """Let a row of L3 hold no document."""
    rows = at.l3.log.rows
    rows[key] = msgspec.structs.replace(rows[key], body=body)
    at.flows.caches[key.kind].flush()
    at.l2.forget()


def test_each_action_and_each_fallback_has_a_handler() -> None:
    """No strategy names what nobody does."""

    async def handled() -> tuple[set[RecoveryAction], set[Fallback]]:
        async with scene() as at:
            handlers = at.flows.recovery._handlers
            return set(handlers.steps), set(handlers.fallbacks)

    assert asyncio.run(handled()) == (set(RecoveryAction), set(Fallback))


async def damaged_entry(at: Scene) -> list[int]:
    """What L2 holds after an entry was damaged and read ten times: 1 if it can be read."""
    await put_in_l2(at)
    at.l2.damage(B1, DAMAGED)
    for _ in range(10):
        bot = await at.flows.store.bots.get("b1")
        assert bot is not None
        assert bot.name == "Ada"
        at.flows.caches["bot"].flush()
        await at.flows.resolver.drain()
    return [each.unreadable is None for each in at.l2.dump()["memory-0"].held.values()]


async def test_a_damaged_entry_of_l2_is_never_served_and_filled_again() -> None:
    """C5: the reader gets L3's answer, and L2 holds the same version again, whatever the damaged one looked like."""
    async with scene() as at:
        assert await damaged_entry(at) == [True]
        end = await at.completed()
        assert (end["errorType"], end["subject"], end["outcome"]) == ("cache_failure", "bot:b1", "recovered")
        assert await at.lines() == [("detected", "done"), ("retry_operation", "mended"), ("completed", "recovered")]
        (kept,) = await at.quarantine.list(limit=10)
        found = await at.quarantine.find(kept.number)
        assert found is not None
        assert (found.found.tier, found.found.id, found.found.evidence) == ("l2", "b1", DAMAGED)
        assert (found.found.size, found.found.server) == (len(DAMAGED), "a server")


class KeepsAll(MemoryCache):
    """Mutant: what cannot be read is not withdrawn."""

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        return 0


async def test_mutant_a_damaged_entry_stays() -> None:
    """Without the withdrawal it refuses every fill, and all readers go to L3 until its TTL is over."""
    async with scene(l2=KeepsAll) as at:
        assert await damaged_entry(at) == [False]


async def test_an_entry_whose_document_does_not_decode_is_withdrawn_by_its_version() -> None:
    """Its checksum held, so it was stored that way; L3's own row is good."""
    async with scene() as at:
        await put_in_l2(at)
        held = at.l2.dump()["memory-0"].held
        entry = held[B1].entry
        assert entry.row is not None
        row = msgspec.structs.replace(entry.row, body=b'{"name": 7}')
        at.l2._store(B1, msgspec.structs.replace(held[B1], entry=msgspec.structs.replace(entry, row=row)))
        bot = await at.flows.store.bots.get("b1")
        assert bot is not None
        await at.flows.resolver.drain()
        assert at.l2.dump()["memory-0"].held[B1].entry.row != row
        assert (await at.completed())["outcome"] == "recovered"


async def bad_row(at: Scene, reads: int = 50) -> None:
    """A row of L3 that does not decode is read often, beside a good one."""
    await at.flows.store.bots.put("b1", Bot(name="Ada"))
    await at.flows.store.bots.put("b2", Bot(name="Bob"))
    spoil(at, B1)
    for _ in range(reads):
        with pytest.raises(CorruptDocument):
            await at.flows.store.bots.get("b1")
    assert await at.flows.store.bots.get("b2") is not None


async def test_a_bad_row_of_l3_is_escalated_once_and_others_go_on() -> None:
    """E1: it is kept as evidence, never served, never changed; a person is asked, and no mode is entered."""
    async with scene() as at:
        await bad_row(at)
        end = await at.completed()
        assert (end["errorType"], end["severity"], end["outcome"]) == ("state_corruption", "CRITICAL", "escalated")
        assert await at.lines() == [
            ("detected", "done"),
            ("force_reload_from_l3", "failed"),
            ("invalidate_related_cache", "done"),
            ("notify_swarm_leader", "skipped"),
            ("escalate_to_human", "escalated"),
            ("completed", "escalated"),
        ]
        (asked,) = at.person.asked.values()
        assert (asked["type"], asked["subject"], asked["seconds"]) == ("state_corruption", "bot:b1", 60.0)
        assert asked["tried"][0] == ("force_reload_from_l3", "failed", "CorruptDocument: " + WORDS)
        assert asked["failed"] == "CorruptDocument: " + WORDS
        assert asked["evidence"] == hashlib.sha256(BAD).hexdigest()
        assert (asked["options"], asked["fallback"]) == ((), "")
        assert at.modes.told == []
        (kept,) = await at.quarantine.list(limit=10)
        assert (kept.found.tier, kept.found.kind, kept.found.id) == ("l3", "bot", "b1")
        assert kept.found.count >= 50
        assert at.counters.repeated >= 49
        assert at.l3.log.rows[B1].body == BAD


async def test_mutant_each_fault_begins_a_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule of one recovery, a person is asked as often as the row is read."""
    monkeypatch.setattr(FaultReports, "ended", lambda self, report, mended: self._under_way.discard(report.slot))
    async with scene() as at:
        await bad_row(at, reads=1)
        await at.completed()
        with pytest.raises(CorruptDocument):
            await at.flows.store.bots.get("b1")
        await at.completed(2)
        assert len(at.person.asked) == 2


async def test_the_door_shows_what_was_done_and_what_did_not_verify() -> None:
    """Of one recovery, the newest line first; evidence with its bytes, until it is discarded, which is recorded."""
    async with scene() as at:
        await bad_row(at, reads=1)
        end = await at.completed()
        at.flows.recovery.report(TierUnavailable("away"), Source.FEED)
        await at.completed(2)
        await at.lines()
        log, quarantine = at.flows.store.recovery_log, at.flows.store.quarantine
        mine = await log.list(recovery_id=end["recoveryId"])
        assert [mine[0].line.step, mine[-1].line.step] == ["completed", "detected"]
        assert await log.list(subject="bot:b1", since=mine[-1].line.at) == mine
        assert await log.list(subject="bot:b1", before=mine[0].number, limit=1) == mine[1:2]
        assert {each.line.subject for each in await log.list()} == {"bot:b1", "tier:feed"}
        (entry,) = await quarantine.list()
        found = await quarantine.get(entry.number)
        assert found is not None
        assert found.found.evidence == b'{"name": 7}'
        assert [await quarantine.discard(entry.number, reason="seen") for _ in range(2)] == [True, False]
        assert await quarantine.get(entry.number) is None
        assert (await at.flows.store.audit.list())[-1].note.reason == "seen"


@pytest.mark.parametrize(
    ("which", "error"),
    [
        ({"subject": "a\0b"}, InvalidKey),
        ({"recovery_id": ""}, InvalidKey),
        ({"since": dt.datetime(2026, 1, 1)}, InvalidDocument),  # noqa: DTZ001 - the point of it
        ({"limit": 1001}, ValueError),
    ],
)
async def test_what_no_line_can_be_is_refused(which: dict[str, Any], error: type[Exception]) -> None:
    """Before L3 is asked."""
    async with scene() as at:
        at.l3.away = True
        with pytest.raises(error):
            await at.flows.store.recovery_log.list(**which)


async def test_what_stays_bad_is_left_alone_for_longer_each_time() -> None:
    """A minute, then two: nobody is asked for each read of it."""
    async with scene() as at:
        await bad_row(at, reads=1)
        await at.completed()
        for number, seconds in enumerate((60, 120, 240), 2):
            at.clock.advance(seconds - 1)
            with pytest.raises(CorruptDocument):
                await at.flows.store.bots.get("b1")
            assert len(at.ends) == number - 1
            at.clock.advance(2)
            with pytest.raises(CorruptDocument):
                await at.flows.store.bots.get("b1")
            await at.completed(number)


async def test_the_leader_of_a_swarm_is_told_by_an_event_that_waits() -> None:
    """With who leads it, if the swarm can be read."""
    told: list[Event] = []

    async def hear(event: Event) -> None:
        told.append(event)

    async with scene() as at:
        await at.flows.bus.subscribe(ALERT, hear, group="leaders").ready()
        await at.flows.store.swarms.put("s1", Swarm(goal="g", swarm_leader="b7"))
        await at.flows.store.bots.put("b1", Bot(name="Ada"))
        spoil(at, B1)
        at.flows.recovery.report(CorruptDocument("b1 is bad"), Source.L3, key=B1, swarm_id="s1")
        await at.completed()
        await at.so(lambda: len(told) == 1)
        data = told[0].data
        notice = msgspec.convert(data, LeaderNotice)
        assert [each.step for each in notice.tried] == ["force_reload_from_l3", "invalidate_related_cache"]
        assert notice.escalation is None
        assert (data["swarmId"], data["leaderBotId"], data["subject"]) == ("s1", "b7", "bot:b1")
        assert (data["urgency"], told[0].metadata.delivery.value) == ("high", "reliable")


async def test_when_l2_is_away_it_is_bypassed_until_it_is_back() -> None:
    """One recovery, however long it is away; readers are served meanwhile, and the end is told.

    Its guard lets all through: it answers, but not what it was asked.
    """
    async with scene() as at:
        watch_by(at, l2=MemoryGuard(None))
        await put_in_l2(at)
        at.l2.away = True
        for _ in range(20):
            assert await at.flows.store.bots.get("b1") is not None
            at.flows.caches["bot"].flush()
        end = await at.completed()
        assert (end["subject"], end["outcome"]) == ("tier:l2", "degraded")
        await at.so(lambda: len(at.modes.told) >= 3)
        assert all(seconds is not None and 0 < seconds < 10 for seconds, _ in at.modes.told)
        assert at.counters.returned == 0
        at.l2.away = False
        await at.so(lambda: at.counters.returned == 1)
        assert at.modes.told[-1] == (0.0, "tier:l2 answers")
        assert await at.lines() == [
            ("detected", "done"),
            ("retry_operation", "failed"),
            ("force_reload_from_l3", "done"),
            ("invalidate_related_cache", "skipped"),
            ("direct_l3_access", "done"),
            ("completed", "degraded"),
            ("returned", "mended"),
        ]
        assert len(at.ends) == 1


class OneNodeAway(MemoryGuard):
    """Of an L2 of two nodes, one of which answers."""

    answers = True

    def health(self) -> TierHealth:
        return TierHealth.of({"one": Circuit.CLOSED, "other": Circuit.OPEN}, "it was killed")


@pytest.mark.parametrize("guard", [MemoryGuard, OneNodeAway])
async def test_what_of_l2_is_cut_off_is_all_that_is_bypassed(guard: type[MemoryGuard]) -> None:
    """What other nodes hold is read there, and all as soon as it answers."""
    async with scene() as at:
        watch_by(at, l2=guard(at.l2))
        at.l2.away = True
        at.flows.recovery.report(TierUnavailable("a node is cut off"), Source.L2, key=B1)
        end = await at.completed()
        assert (end["outcome"], end["tried"][-1]) == ("degraded", {"step": "direct_l3_access", "outcome": "done"})
        at.l2.away = False
        await at.so(lambda: at.counters.returned == 1)
        assert {seconds for seconds, _ in at.modes.told} == {0.0}


class TwoNodes(MemoryGuard):
    """Of an L2 of two nodes, which both answer, one of them that it refuses."""

    answers = True

    def health(self) -> TierHealth:
        return TierHealth.of({"one": Circuit.CLOSED, "other": Circuit.CLOSED}, None)


async def test_a_node_that_refuses_costs_its_own_keys() -> None:
    """What the others hold is read there: no mode is entered."""
    async with scene() as at:
        watch_by(at, l2=TwoNodes(at.l2))
        at.l2.away = True
        at.flows.recovery.report(TierUnavailable("LOADING"), Source.L2, key=B1)
        end = await at.completed()
        assert (end["outcome"], end["tried"][-1]) == ("degraded", {"step": "direct_l3_access", "outcome": "done"})
        at.l2.away = False
        await at.so(lambda: at.counters.returned == 1)
        assert {seconds for seconds, _ in at.modes.told} == {0.0}


async def test_an_outage_that_no_caller_met_is_recovered_from() -> None:
    """Who looks after the server's health has found it out; once, as long as it lasts."""
    async with scene() as at:
        at.l2.away = True
        at.flows.health.observe()
        at.flows.health.observe()
        assert at.counters.reported == 1
        end = await at.completed()
        assert (end["errorType"], end["subject"], end["outcome"]) == ("cache_failure", "tier:l2", "degraded")


async def test_mutant_the_health_keeper_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing would begin before somebody reads."""
    monkeypatch.setattr(HealthKeeper, "_report", lambda *_: None)
    async with scene() as at:
        at.l2.away = True
        at.flows.health.observe()
        assert at.counters.reported == 0


async def test_with_l3_away_the_log_is_kept_here_and_merged_later() -> None:
    """With the time at which it was done; meanwhile writes are refused by the guard that has cut L3 off."""
    async with scene() as at:
        at.l3.away = True
        with pytest.raises(TierUnavailable):
            await at.flows.store.bots.get("b1")
        end = await at.completed()
        assert (end["errorType"], end["subject"]) == ("communication_failure", "tier:l3")
        assert end["outcome"] == "degraded"
        assert at.modes.told == []
        before = at.clock.monotonic()
        assert at.flows.recovery_log.waiting >= 4
        at.clock.advance(100.0)
        at.l3.away = False
        await at.so(lambda: at.counters.returned >= 1)
        lines = await at.lines()
        assert ("read_only_mode", "done") in lines
        times = {each.line.step: each.line.at.timestamp() for each in await at.log.list(limit=100)}
        assert times["read_only_mode"] <= before
        assert times["returned"] >= before + 100.0
        assert at.modes.told == []


async def test_calls_that_get_no_connection_are_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether L3 answers its guard is asked, not who has no room: writes are not refused."""
    async with scene() as at:

        async def starved(*_: Any) -> Any:
            raise TierUnavailable("L3: no connection within 30 s")

        monkeypatch.setattr(at.l3, "load", starved)
        at.flows.recovery.report(TierUnavailable("L3: no connection within 30 s"), Source.L3)
        end = await at.completed()
        assert (end["errorType"], end["outcome"]) == ("communication_failure", "recovered")
        assert at.modes.told == []


async def test_a_write_of_which_l3_does_not_say_what_became(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller is told at once; what L3 has of the document is found out apart."""
    async with scene() as at:

        async def lost(_: Sequence[Write]) -> Mapping[Key, int]:
            raise OutcomeUnknown("the connection was lost")

        monkeypatch.setattr(at.l3, "save", lost)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await at.flows.store.bots.put("b1", Bot(name="Ada"))
        end = await at.completed()
        assert (end["errorType"], end["subject"], end["outcome"]) == ("transaction_failed", "bot:b1", "recovered")


async def test_a_full_disk_of_l3_is_recorded_and_not_taken_for_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told at once; reads go on, which does not mean that writes do, and no mode forbids them."""

    async def full(*_: object, **__: object) -> None:
        raise StorageFull("L3: could not extend a file")

    async with scene() as at:
        with monkeypatch.context() as patch:
            patch.setattr(type(at.l3), "save", full)
            with pytest.raises(StorageFull):
                await at.flows.store.bots.put("b1", Bot(name="Ada"))
        end = await at.completed()
        assert (end["errorType"], end["subject"], end["outcome"]) == ("transaction_failed", "tier:l3", "failed")
        assert at.modes.told == []
        await at.flows.store.bots.put("b1", Bot(name="Ada"))
        assert await at.lines() == [
            ("detected", "done"),
            ("retry_operation", "skipped"),
            ("force_reload_from_l3", "failed"),
            ("completed", "failed"),
        ]


async def test_a_feed_that_is_heard_again_is_no_reason_to_refuse_writes() -> None:
    """L3 itself answers."""
    async with scene() as at:
        at.flows.feed.fault = TierUnavailable("the feed is silent")
        at.flows.recovery.report(at.flows.feed.fault, Source.FEED)
        end = await at.completed()
        assert (end["subject"], at.modes.told) == ("tier:feed", [])


async def test_a_step_that_fails_or_hangs_begins_no_recovery() -> None:
    """Whatever a handler meets is the outcome of its step, and the next one comes."""
    async with scene() as at:

        async def broken(_case: Case, _step: RecoveryStep) -> Done:
            raise TierUnavailable("a step of a recovery cannot reach L3")

        async def hanging(_case: Case, _step: RecoveryStep) -> Done:
            await asyncio.Event().wait()
            raise AssertionError

        handlers = at.flows.recovery._handlers
        handlers.steps = {
            **handlers.steps,
            RecoveryAction.FORCE_RELOAD_FROM_L3: broken,
            RecoveryAction.RETRY_OPERATION: hanging,
        }
        at.flows.recovery._strategies = {
            StateErrorType.STATE_CORRUPTION: StateRecoveryStrategy(
                error_type=StateErrorType.STATE_CORRUPTION,
                severity=Severity.CRITICAL,
                recovery_steps=(
                    RecoveryStep(action=RecoveryAction.FORCE_RELOAD_FROM_L3),
                    RecoveryStep(action=RecoveryAction.RETRY_OPERATION, timeout_seconds=0.01),
                ),
                fallback_options=(),
            )
        }
        at.flows.recovery.report(CorruptDocument("bad"), Source.L3, key=B1)
        end = await at.completed()
        assert [(each["step"], each["outcome"]) for each in end["tried"]] == [
            ("force_reload_from_l3", "failed"),
            ("retry_operation", "failed"),
        ]
        assert (at.counters.reported, at.counters.failed) == (1, 1)


async def test_an_urgent_recovery_does_not_wait_for_others() -> None:
    """All places are taken by steps that hang; one whose first step is immediate begins all the same."""
    async with scene() as at:
        going = asyncio.Event()

        async def hanging(_case: Case, _step: RecoveryStep) -> Done:
            await going.wait()
            return Done(Outcome.MENDED, "")

        handlers = at.flows.recovery._handlers
        handlers.steps = {**handlers.steps, RecoveryAction.FORCE_RELOAD_FROM_L3: hanging}
        for number in range(20):
            at.flows.recovery.report(CorruptDocument("bad"), Source.L3, key=Key("bot", f"b{number}"))
        at.flows.recovery.report(ContextCorrupt("r1", ()), Source.L3, run_id="r1")
        assert (await at.completed())["subject"] == "run:r1"
        going.set()
        await at.so(lambda: at.counters.recovered == 20)


async def test_a_kind_may_have_a_strategy_of_its_own() -> None:
    """Its faults are dealt with by that, those of others by the table."""
    own = StateRecoveryStrategy(
        error_type=StateErrorType.STATE_CORRUPTION,
        severity=Severity.ERROR,
        recovery_steps=(RecoveryStep(action=RecoveryAction.INVALIDATE_RELATED_CACHE, scope="key"),),
        fallback_options=(),
    )
    async with scene([Kind("plan", Bot, recovery=(own,))]) as at:
        at.flows.recovery.report(CorruptDocument("bad"), Source.L3, key=Key("plan", "p1"))
        end = await at.completed()
        assert [each["step"] for each in end["tried"]] == ["invalidate_related_cache"]
        at.flows.recovery.report(CorruptDocument("bad"), Source.L3, key=B2)
        assert (await at.completed(2))["tried"][0]["step"] == "force_reload_from_l3"


async def test_nobody_answers_what_a_kind_with_a_strategy_of_its_own_asked() -> None:
    """What takes no effect is promised to nobody; of a fallback that is done all the same, those behind it come."""
    own = StateRecoveryStrategy(
        error_type=StateErrorType.STATE_CORRUPTION,
        severity=Severity.ERROR,
        recovery_steps=(RecoveryStep(action=RecoveryAction.ESCALATE_TO_HUMAN),),
        fallback_options=(
            FallbackOption(strategy=Fallback.DIRECT_L3_ACCESS),
            FallbackOption(strategy=Fallback.RESTORE_LAST_SNAPSHOT),
        ),
    )
    async with scene([Kind("plan", Bot, recovery=(own,))]) as at:
        at.flows.recovery.report(CorruptDocument("bad"), Source.L3, key=Key("plan", "p1"))
        assert (await at.completed())["outcome"] == "escalated"
        (asked,) = at.person.asked.values()
        assert (asked["fallback"], asked["options"]) == ("", ())  # neither would take effect for one document
        await at.lines()
        await at.flows.recovery.fall_back("rec1", StateErrorType.STATE_CORRUPTION, "plan:p1", Fallback.DIRECT_L3_ACCESS)
        left = [("direct_l3_access", "skipped"), ("restore_last_snapshot", "skipped"), ("completed", "failed")]
        assert (await at.lines())[-3:] == left


async def test_the_fallback_of_an_escalation_that_nobody_answered() -> None:
    """It is done and recorded under the same recovery; for one document no mode is entered."""
    async with scene() as at:
        await at.flows.recovery.fall_back("rec1", StateErrorType.STATE_CORRUPTION, "bot:b1", Fallback.READ_ONLY_MODE)
        assert await at.lines() == [("read_only_mode", "skipped"), ("completed", "failed")]
        assert (await at.log.list(limit=1))[0].line.recovery_id == "rec1"
        assert at.modes.told == []


async def test_secrets_and_mistakes_are_no_faults_of_state() -> None:
    """What is the caller's begins nothing."""
    async with scene() as at:
        at.flows.recovery.report(ValueError("a mistake"), Source.L3, key=B1)
        assert at.counters.reported == 0


async def test_closing_ends_recoveries_under_way() -> None:
    """Also those that look for a tier; closing twice is once."""
    async with scene() as at:
        at.l2.away = True
        at.flows.recovery.report(TierUnavailable("away"), Source.L2, key=B1)
        await at.completed()
        manager: RecoveryManager = at.flows.recovery
        assert manager._watching
        await manager.stop()
        await manager.stop()
        assert not manager._watching
        assert not manager._walking
