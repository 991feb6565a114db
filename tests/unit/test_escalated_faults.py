"""What a person is asked about a fault: once, however many meet it; in words that help; and what a decision does."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import uuid
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_recovery import Scene, hurry, scene
from fix_run_servers import Hall, hall
from holdfast import Bot
from holdfast.documents import Escalation
from holdfast.errors import (
    ContextCorrupt,
    CorruptDocument,
    HoldfastError,
    SerializationFailure,
    TierError,
    TierUnavailable,
)
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Source
from holdfast.protocols.escalations import Asked, EscalationRequest
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX
from holdfast.recovery import escalation_rules as rules
from holdfast.recovery import handlers as handling
from holdfast.recovery import manager as managing
from holdfast.recovery.escalations import Escalations
from holdfast.recovery.handlers import Case, Handlers, Outcome
from holdfast.recovery.reports import Report
from holdfast.recovery.strategies import (
    RECOVERY_STRATEGIES,
    Fallback,
    FallbackOption,
    RecoveryAction,
    RecoveryStep,
    Severity,
    StateErrorType,
    StateRecoveryStrategy,
)
from holdfast.run_context.rescuing import Termination

B1 = Key("bot", "b1")
HOUR = 3600.0
REQUEST = EscalationRequest(
    recovery_id="rec1",
    error_type="state_corruption",
    severity="CRITICAL",
    subject="bot:b1",
    failed="CorruptDocument: at name: expected str, got int",
    evidence="ab12",
    timeout_seconds=60.0,
)


async def still(shared: Hall) -> None:
    """Let nothing be told or swept by itself, and no recovery pause."""
    for flows in shared.servers.values():
        await flows.run_flows.delivery_worker.stop()
        await flows.run_flows.escalation_sweeper.stop()
        hurry(flows)


async def escalated(flows: Flows, times: int) -> None:
    """Wait until so many recoveries of a server have asked a person."""

    async def are() -> bool:
        return flows.counters.recovery.escalated == times

    await until(are)


def spoil(shared: Hall, body: bytes = b'{"name": 7}') -> None:
    """Let the row of b1 hold no document."""
    rows = shared.l3.log.rows
    rows[B1] = msgspec.structs.replace(rows[B1], body=body)
    for flows in shared.servers.values():
        flows.caches["bot"].flush()
    shared.l2.forget()


async def met(shared: Hall, flows: Flows) -> None:
    """Let a server meet the bad row, after it has left it alone for long enough."""
    shared.clock.advance(2 * HOUR)
    asked = flows.counters.recovery.escalated
    with pytest.raises(CorruptDocument):
        await flows.store.bots.get("b1")
    await escalated(flows, asked + 1)


async def asked_about_one_row(shared: Hall) -> list[Escalation]:
    """All escalations, after two servers have met one bad row three times each, while nobody answered."""
    await still(shared)
    servers = list(shared.servers.values())
    await servers[0].store.bots.put("b1", Bot(name="Ada"))
    spoil(shared)
    for _ in range(3):
        for flows in servers:
            await met(shared, flows)
        await servers[0].run_flows.escalation_sweeper.sweep()
    return [each.document for each in await servers[0].store.escalations.list(status=None)]


async def test_of_one_bad_row_a_person_is_asked_once() -> None:
    """Not by each server, nor again each hour; the escalation says what is wrong with it."""
    async with hall() as shared:
        (asked,) = await asked_about_one_row(shared)
        assert (asked.status, asked.decision, asked.reason[-17:]) == ("timed_out", "", ": nothing is done")
        assert asked.failed == (
            "a row of L3 does not decode as what it should hold:"
            " CorruptDocument: bot:b1 does not hold what it should at name: Expected `str`, got `int`"
        )
        assert [each.step for each in asked.tried] == [
            "force_reload_from_l3",
            "invalidate_related_cache",
            "notify_swarm_leader",
        ]
        assert asked.tried[1].detail == "what caches hold of bot:b1 is void"  # others of its kind are good


async def test_mutant_each_recovery_asks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one row is as many escalations as recoveries."""
    monkeypatch.setattr(rules, "fault_id", lambda *_: uuid.uuid4().hex)
    async with hall() as shared:
        assert len(await asked_about_one_row(shared)) == 6


async def test_what_was_decided_is_not_asked_again_but_of_another_version() -> None:
    """A row that is bad in another way is another fault."""
    async with hall() as shared:
        await still(shared)
        a, b = shared.servers.values()
        await a.store.bots.put("b1", Bot(name="Ada"))
        spoil(shared)
        await met(shared, a)
        (asked,) = await a.store.escalations.list()
        await a.store.escalations.resolve(asked.id, decision="it is mended tonight", by="ann", reason="we know")
        await met(shared, b)
        assert await a.store.escalations.list() == []
        spoil(shared, b'{"name": 8}')
        await met(shared, b)
        (other,) = await a.store.escalations.list()
        assert other.id != asked.id


async def test_rows_that_begin_alike_are_two_faults() -> None:
    """Of a long one its beginning alone is kept."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await flows.store.bots.put("b1", Bot(name="Ada"))
        for number in (1, 2):
            spoil(shared, msgspec.json.encode({"role": "x" * EVIDENCE_BYTES_MAX, "name": number}))
            await met(shared, flows)
            await flows.store.bots.put("b1", Bot(name="Ada"))
        names = [each.id for each in await flows.store.escalations.list()]
        assert len(names) == 2


@pytest.mark.parametrize("mutant", [False, True])
async def test_asking_that_hangs_is_done_later(monkeypatch: pytest.MonkeyPatch, *, mutant: bool) -> None:
    """L3 holds a lock, say. The mutant has the step cut it off, and forgets it."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        escalate, hangs = Escalations.escalate, [True]

        async def hanging(self: Escalations, request: EscalationRequest) -> Asked:
            if hangs:
                hangs.pop()
                await asyncio.Event().wait()
            return await escalate(self, request)

        monkeypatch.setattr(Escalations, "escalate", hanging)
        monkeypatch.setattr(handling, "ASK_SECONDS", 60.0 if mutant else 0.01)
        monkeypatch.setattr(managing, "STEP_SECONDS", 0.5 if mutant else 60.0)
        monkeypatch.setattr(managing, "ATTEMPT_SECONDS", 0.0)
        await flows.store.bots.put("b1", Bot(name="Ada"))
        spoil(shared)
        with pytest.raises(CorruptDocument):
            await flows.store.bots.get("b1")

        async def over() -> bool:
            counters = flows.counters.recovery
            return counters.failed + counters.escalated == 1 and not flows.recovery_log.waiting

        await until(over)
        assert len(await flows.store.escalations.list()) == (0 if mutant else 1)


async def test_what_leaves_no_evidence_is_asked_once_an_hour() -> None:
    """On whichever server: what passes may come again."""
    passing = msgspec.structs.replace(REQUEST, error_type="transaction_failed", evidence="")
    async with hall() as shared:
        await still(shared)
        a, b = (flows.store.escalations for flows in shared.servers.values())
        asked = [await a.escalate(passing), await b.escalate(passing)]
        assert asked[0] == asked[1]
        shared.clock.advance(HOUR)
        assert (await b.escalate(passing)).id != asked[0].id


async def told_of(shared: Hall, *names: str) -> list[str]:
    """What hooks are told of a fault that these servers meet, one after the other."""
    await still(shared)
    for name in names:
        await shared.servers[name].store.escalations.escalate(REQUEST)
    return sorted(key.id.partition("/")[2] for key in shared.l3.log.rows if key.kind == "delivery")


async def pager(_notice: rules.EscalationNotice, _key: str) -> None:
    """A hook."""


async def test_each_server_that_meets_a_fault_has_its_hooks_told() -> None:
    """Once, whoever was first: one with another hook, or none. Of what was decided they are told as all others."""
    async with hall("a") as shared, shared.server("b", escalation_hooks={"pager": pager}):
        told = ["escalation:leader/open", "escalation:pager/open"]
        assert await told_of(shared, "a") == told[:1]
        assert await told_of(shared, "b", "a", "b") == told
        (asked,) = await shared.servers["a"].store.escalations.list()
        assert (asked.document.hooks, asked.document.further) == (["leader", "pager"], 0)
        await shared.servers["a"].store.escalations.resolve(asked.id, decision="mended", by="ann", reason="at last")
        decided = [name.replace("open", "resolved") for name in told]
        assert await told_of(shared, "b") == sorted(told + decided)


async def test_mutant_the_first_server_says_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the hooks of all others never hear of it."""

    async def join(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(Escalations, "_join", join)
    async with hall("a") as shared, shared.server("b", escalation_hooks={"pager": pager}):
        assert await told_of(shared, "a", "b") == ["escalation:leader/open"]


async def many(shared: Hall) -> list[Escalation]:
    """What is open after 25 rows of a kind were found to be bad, one of them often, and one of another kind."""
    await still(shared)
    a, b = (flows.store.escalations for flows in shared.servers.values())
    requests = [msgspec.structs.replace(REQUEST, subject=f"bot:b{number}") for number in range(25)]
    for request in (*requests, *[requests[0]] * 5):
        await a.escalate(request)
    alone = await b.escalate(msgspec.structs.replace(REQUEST, subject="plan:p1"))
    assert alone.alone
    return [each.document for each in await b.list(limit=100)]


async def test_of_many_alike_one_stands_for_those_beyond_twenty() -> None:
    """It says how many; another kind's are asked about as ever, and nothing is left to its time-out."""
    async with hall() as shared:
        found = await many(shared)
        assert len(found) == 22
        stands = found[20]
        assert (stands.subject, stands.further, stands.fallback) == ("bot:*", 4, "")
        assert "20 escalations of state_corruption at bot are open" in stands.failed
        a = shared.servers["a"].store.escalations
        counted = await a.escalate(msgspec.structs.replace(REQUEST, subject="bot:b99"))
        assert not counted.alone


async def faults_after_a_burst(shared: Hall, *, by_person: bool) -> list[tuple[str, int]]:
    """Subjects, and reports counted, of what is open when another row is bad behind a burst that was decided."""
    await still(shared)
    flows = shared.servers["a"]
    escalations = flows.store.escalations
    for number in range(22):
        await escalations.escalate(msgspec.structs.replace(REQUEST, subject=f"bot:b{number}"))
    if by_person:
        for each in await escalations.list():
            await escalations.resolve(each.id, decision="mended", by="ann", reason="the migration was undone")
    shared.clock.advance(61.0)
    await flows.run_flows.escalation_sweeper.sweep()
    await escalations.escalate(msgspec.structs.replace(REQUEST, subject="bot:new"))
    return [(each.document.subject, each.document.further) for each in await escalations.list()]


async def test_behind_a_burst_a_person_is_asked_again() -> None:
    """Once it was decided. If nobody answers, the one that stands for many stays open, and counts."""
    async with hall("a") as shared:
        assert await faults_after_a_burst(shared, by_person=True) == [("bot:new", 0)]
    async with hall("a") as shared:
        assert await faults_after_a_burst(shared, by_person=False) == [("bot:*", 2)]


async def test_what_was_decided_of_many_counts_while_twenty_are_open() -> None:
    """Those ask already; the hour has no other one."""
    async with hall() as shared:
        stands = (await many(shared))[20]
        escalations = shared.servers["a"].store.escalations
        (name,) = [each.id for each in await escalations.list() if each.document == stands]
        await escalations.resolve(name, decision="tonight", by="ann", reason="we know")
        assert not (await escalations.escalate(msgspec.structs.replace(REQUEST, subject="bot:b99"))).alone
        found = await escalations.get(name)
        assert found is not None
        assert (found.status, found.further) == ("resolved", 5)


async def test_mutant_the_hours_one_counts_whatever_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody is asked of anything new for the rest of the hour."""
    joined = Escalations._join

    async def join(self: Escalations, identifier: str, *, further: int = 0, **_: bool) -> bool:
        return await joined(self, identifier, further=further, also_decided=True)

    monkeypatch.setattr(Escalations, "_join", join)
    async with hall("a") as shared:
        assert await faults_after_a_burst(shared, by_person=True) == []


async def test_mutant_the_hours_one_is_left_as_soon_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a mass of faults asks 20 times a minute."""
    monkeypatch.setattr(rules, "MANY_SECONDS", 0.0)
    async with hall("a") as shared:
        assert await faults_after_a_burst(shared, by_person=False) == [("bot:new", 0)]


async def test_mutant_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad migration would ask about each of its rows."""
    monkeypatch.setattr(rules, "OPEN_MAX", 1000)
    async with hall() as shared:
        assert len(await many(shared)) == 26


ESCALATE = RecoveryStep(action=RecoveryAction.ESCALATE_TO_HUMAN)


async def test_the_fallback_of_an_outage_waits_for_no_person() -> None:
    """One is asked, but nothing is promised that comes later."""
    row = StateRecoveryStrategy(
        error_type=StateErrorType.CACHE_FAILURE,
        severity=Severity.ERROR,
        recovery_steps=(ESCALATE,),
        fallback_options=(FallbackOption(strategy=Fallback.DIRECT_L3_ACCESS, performance_impact="high"),),
    )
    async with scene() as at:
        at.flows.recovery._strategies = {StateErrorType.CACHE_FAILURE: row}
        at.l2.away = True
        at.flows.recovery.report(TierUnavailable("away"), Source.L2, key=B1)
        end = await at.completed()
        assert [(each["step"], each["outcome"]) for each in end["tried"]] == [
            ("escalate_to_human", "done"),
            ("direct_l3_access", "done"),
        ]
        (asked,) = at.person.asked.values()
        assert (asked["fallback"], asked["options"], asked["seconds"]) == ("", (), None)
        await at.lines()
        details = {each.line.step: each.line.detail for each in await at.log.list(limit=100)}
        assert details["direct_l3_access"].endswith("(performance impact high)")


REPORTED: dict[StateErrorType, list[tuple[HoldfastError, Source, dict[str, Any]]]] = {
    StateErrorType.CACHE_FAILURE: [
        (CorruptDocument("bits"), Source.L2, {"key": B1}),
        (TierUnavailable("away"), Source.L2, {}),
    ],
    StateErrorType.CONTEXT_CORRUPTION: [(ContextCorrupt("r1", ()), Source.L3, {"run_id": "r1", "swarm_id": "s1"})],
    StateErrorType.STATE_CORRUPTION: [(CorruptDocument("bad"), Source.L3, {"key": Key("swarm", "s1")})],
    StateErrorType.TRANSACTION_FAILED: [(SerializationFailure("again"), Source.L3, {})],
    StateErrorType.COMMUNICATION_FAILURE: [(TierUnavailable("away"), Source.L3, {})],
}


@pytest.mark.parametrize("row", RECOVERY_STRATEGIES, ids=lambda row: str(row.error_type))
async def test_no_row_names_a_step_that_never_applies(
    row: StateRecoveryStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of faults of its type, if nothing mends them; nor is a person told of a fallback that does not."""
    applied: set[str] = set()
    async with scene() as at:
        means = at.flows.recovery._handlers._means

        async def fails(_: Report) -> None:
            raise TierUnavailable("as before")

        async def ended(_: str) -> Termination:
            return Termination.FAILED

        for number, (fault, source, about) in enumerate(REPORTED[row.error_type], 1):
            monkeypatch.setattr(means.prober, "check", fails)
            monkeypatch.setattr(means.prober, "reload", fails)
            monkeypatch.setattr(means.rescue, "terminate", ended)
            at.flows.recovery.report(fault, source, **about)
            end = await at.completed(number)
            assert end["errorType"] == row.error_type
            applied |= {each["step"] for each in end["tried"] if each["outcome"] != "skipped"}
        assert {step.action.value for step in row.recovery_steps} <= applied
        for asked in at.person.asked.values():
            assert asked["fallback"] == (row.fallback_options[0].strategy.value if row.fallback_options else "")


async def voided(at: Scene, times: int, *, fails: bool = False) -> list[Outcome | type[BaseException]]:
    """What comes of making a kind void so often at once."""
    done = asyncio.Event()

    async def void(*_: object) -> None:
        await done.wait()
        if fails:
            raise TierUnavailable("away")

    handlers: Handlers = at.flows.recovery._handlers
    handlers._means = dataclasses.replace(handlers._means, void=void)
    fault = CorruptDocument("bits")
    at.flows.faults.report(fault, Source.L2, key=B1)
    report = at.flows.faults.take()
    assert report is not None
    at.flows.faults.ended(report, mended=False)
    case, step = (
        Case("rec1", report, (), []),
        RecoveryStep(action=RecoveryAction.INVALIDATE_RELATED_CACHE, scope="pattern"),
    )
    under_way = [asyncio.ensure_future(handlers.steps[step.action](case, step)) for _ in range(times)]
    for _ in range(10):
        await asyncio.sleep(0)
    done.set()
    results = await asyncio.gather(*under_way, return_exceptions=True)
    return [type(each) if isinstance(each, BaseException) else each.outcome for each in results]


async def test_a_kind_is_made_void_once_however_many_ask_at_once() -> None:
    """Each of them would otherwise empty the caches of all servers; what failed may be done again."""
    async with scene() as at:
        assert await voided(at, 3, fails=True) == [TierUnavailable, Outcome.SKIPPED, Outcome.SKIPPED]
        at.flows.faults._left_alone.clear()
        assert await voided(at, 8) == [Outcome.DONE] + [Outcome.SKIPPED] * 7


@pytest.mark.parametrize("fault", [TierUnavailable, TierError], ids=["away", "read-only"])
@pytest.mark.parametrize("mutant", [False, True])
async def test_a_blink_of_l3_keeps_nobody_from_being_asked(
    monkeypatch: pytest.MonkeyPatch, fault: type[TierError], *, mutant: bool
) -> None:
    """The recovery goes on without; the mutant forgets what could not be opened at once."""
    async with hall() as shared:
        await still(shared)
        flows = next(iter(shared.servers.values()))
        escalations = flows.run_flows.escalations
        now, blinks = escalations.index.now, [True, True]

        async def blinking() -> dt.datetime:
            if blinks:
                blinks.pop()
                raise fault("L3 is away")
            return await now()

        monkeypatch.setattr(escalations.index, "now", blinking)
        handlers = flows.recovery._handlers
        if mutant:
            handlers._means = dataclasses.replace(handlers._means, ask_later=lambda _: None)
        await flows.store.bots.put("b1", Bot(name="Ada"))
        spoil(shared)
        await met(shared, flows)

        async def written() -> bool:
            return not flows.recovery_log.waiting and len(blinks) == mutant

        await until(written)
        asked = [each.document.subject for each in await flows.store.escalations.list(status=None)]
        assert asked == ([] if mutant else ["bot:b1"])


async def test_at_the_end_of_a_server_what_waits_is_asked_first() -> None:
    """Though a server that ends takes no transaction any more."""
    async with hall() as shared:
        a, b = shared.servers.values()
        await a.recovery_log._loop.stop()  # it pauses, after a blink of L3
        a.recovery_log.ask(REQUEST)
        await a.stop()
        assert a.recovery_log.waiting == 0
        assert [each.document.subject for each in await b.store.escalations.list()] == [REQUEST.subject]
