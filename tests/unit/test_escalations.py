"""Escalations on servers in memory: opened once, decided once, told to whoever is to be told, swept by anybody."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from fix_events import Notes
from fix_run_servers import Hall, hall
from holdfast import LeaderNotice, Swarm, run_flows
from holdfast.audit.chain import AuditNote
from holdfast.decisions.sweeper import OverdueSweeper
from holdfast.documents import Escalation, decode
from holdfast.errors import (
    EscalationSettled,
    InvalidKey,
    NotFound,
    OutcomeUnknown,
    SettingsError,
    TierUnavailable,
)
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.node import connect
from holdfast.protocols.storage import Isolation
from holdfast.recovery import escalation_rules as rules
from holdfast.recovery.escalation_hooks import exporters_of
from holdfast.recovery.escalation_rules import EscalationNotice
from holdfast.recovery.escalations import Escalations
from holdfast.testing.memory_transaction import MemoryTransaction
from holdfast.transactions import Transaction, TransactionCollection

TRIED = [("force_reload_from_l3", "the row is as it was")]
MINUTE = 60.0


class Hook:
    """One that notes what it is told, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.told: list[tuple[EscalationNotice, str]] = []
        self.failures = 0

    async def __call__(self, notice: EscalationNotice, key: str) -> None:
        self.told.append((notice, key))
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route")


async def opened(flows: Flows, recovery: str = "rec1", timeout_seconds: float = MINUTE, **how: Any) -> str:
    """Ask about a fault on a server."""
    asked: dict[str, Any] = {
        "failed": "it does not decode",
        "error_type": "state_corruption",
        "severity": "CRITICAL",
        "tried": TRIED,
        "fallback": "read_only_mode",
    }
    return await flows.store.escalations.open(
        "bot:b1", recovery_id=recovery, timeout_seconds=timeout_seconds, **asked | how
    )


def stored(shared: Hall, identifier: str = "rec1") -> Escalation:
    """The escalation as L3 has it."""
    return decode(Escalation, shared.l3.log.rows[Key("escalation", identifier)].body)


def to_be_told(shared: Hall) -> list[str]:
    """What is on its way to hooks."""
    return sorted(key.id for key in shared.l3.log.rows if key.kind == "delivery")


def entries(shared: Hall) -> list[AuditNote]:
    """What the audit log says."""
    return [entry.note for entry in shared.l3.log.marks.audit]


async def still(shared: Hall) -> None:
    """Let nothing be told or swept by itself."""
    for flows in shared.servers.values():
        await flows.run_flows.delivery_worker.stop()
        await flows.run_flows.escalation_sweeper.stop()


async def bring(flows: Flows, *hooks: str) -> int:
    """Let a server bring out what is due."""
    return await flows.run_flows.delivery_worker.deliver_due(*(f"escalation:{hook}" for hook in hooks))


async def test_a_recovery_has_one_escalation() -> None:
    """However often, and on whichever server, it is asked for."""
    async with hall() as shared:
        await still(shared)
        a, b = shared.servers.values()
        names = await asyncio.gather(*(opened(flows, swarm_id="s1", run_id="r1") for flows in (a, b, a, b)))
        assert names == ["rec1"] * 4
        found = stored(shared)
        assert (found.error_type, found.severity, found.subject) == ("state_corruption", "CRITICAL", "bot:b1")
        assert (found.failed, found.fallback) == ("it does not decode", "read_only_mode")
        assert [(each.step, each.outcome) for each in found.tried] == TRIED
        assert (found.swarm_id, found.run_id, found.status) == ("s1", "r1", "open")
        assert to_be_told(shared) == ["rec1/escalation:leader/open"]
        assert sum(flows.counters.escalations.opened for flows in (a, b)) == 1
        (listed,) = await b.store.escalations.list()
        assert (listed.id, listed.document) == ("rec1", found)


class Apart(Escalations):
    """Mutant: what hooks are told is stored by itself, once the escalation is."""

    async def _insert(self, identifier: str, escalation: Escalation) -> bool:
        is_new = await super()._insert(identifier, escalation)
        async with self._transactions.open() as transaction:
            await super()._to_be_told(transaction, identifier, escalation)
        return is_new

    async def _to_be_told(self, transaction: Transaction, identifier: str, escalation: Escalation) -> None:
        pass


@pytest.mark.parametrize("escalations", [Escalations, Apart])
async def test_nobody_is_told_of_what_could_not_be_opened(
    monkeypatch: pytest.MonkeyPatch, escalations: type[Escalations]
) -> None:
    """Both are in one transaction, so neither takes effect without the other."""
    monkeypatch.setattr(run_flows, "Escalations", escalations)
    async with hall("a") as shared:
        await still(shared)
        saved = MemoryTransaction.save

        async def save(self: MemoryTransaction, writes: Any) -> Any:
            if any(write.key.kind == "delivery" for write in writes):
                raise TierUnavailable("away")
            return await saved(self, writes)

        monkeypatch.setattr(MemoryTransaction, "save", save)
        with pytest.raises(TierUnavailable):
            await opened(shared.servers["a"])
        monkeypatch.undo()
        found = await shared.servers["a"].store.escalations.get("rec1")
        if escalations is Apart:
            assert (found is not None, to_be_told(shared)) == (True, [])
            return
        assert (found, to_be_told(shared)) == (None, [])
        assert shared.servers["a"].counters.escalations.opened == 0
        await opened(shared.servers["a"])
        assert to_be_told(shared) == ["rec1/escalation:leader/open"]


async def decided_at_once(shared: Hall) -> list[Any]:
    """What comes of two decisions about one escalation, by two servers."""
    await still(shared)
    a, b = shared.servers.values()
    await opened(a)
    decisions = (
        a.store.escalations.resolve("rec1", decision="restore", by="ada", reason="a"),
        b.store.escalations.resolve("rec1", decision="wait", by="bob", reason="b"),
    )
    return list(await asyncio.gather(*decisions, return_exceptions=True))


async def test_of_two_decisions_at_once_one_counts() -> None:
    """The other is told who was faster; there is one record, and one more notice for each hook."""
    async with hall() as shared:
        results = await decided_at_once(shared)
        a, b = shared.servers.values()
        won = stored(shared)
        (lost,) = [each for each in results if isinstance(each, EscalationSettled)]
        assert (lost.by, lost.decision, lost.escalation_id) == (won.resolved_by, won.decision, "rec1")
        (note,) = entries(shared)
        assert (note.action, note.subject, note.actor) == ("resolved", "escalation:rec1", won.resolved_by)
        assert to_be_told(shared) == ["rec1/escalation:leader/open", "rec1/escalation:leader/resolved"]
        assert a.counters.escalations.resolved + b.counters.escalations.resolved == 1


async def test_without_the_lock_both_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the row is read as any other, so the later decision takes the place of the one before."""
    locked = TransactionCollection.get

    async def get(self: TransactionCollection[Any], identifier: str, *, lock: bool = False) -> Any:
        return await locked(self, identifier)

    monkeypatch.setattr(TransactionCollection, "get", get)
    async with hall() as shared:
        results = await decided_at_once(shared)
        assert [type(each) for each in results] == [Escalation, Escalation]
        assert len(entries(shared)) == 2


async def test_what_may_be_open_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to the commit was lost: by the recovery's id the second time finds what the first one did."""
    async with hall("a") as shared:
        await still(shared)
        committed = MemoryTransaction.commit

        async def commit(self: MemoryTransaction) -> None:
            await committed(self)
            raise OutcomeUnknown("the reply was lost")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryTransaction, "commit", commit)
            with pytest.raises(OutcomeUnknown):
                await opened(shared.servers["a"])
        assert await opened(shared.servers["a"]) == "rec1"
        assert to_be_told(shared) == ["rec1/escalation:leader/open"]


async def test_a_decision_is_recorded_with_it_or_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the audit log does not take is not decided, and nobody is told."""
    async with hall("a") as shared:
        await still(shared)
        await opened(shared.servers["a"])

        async def refuse(_: MemoryTransaction, __: AuditNote) -> None:
            raise TierUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryTransaction, "audit", refuse)
            with pytest.raises(TierUnavailable):
                await shared.servers["a"].store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        assert (stored(shared).status, entries(shared)) == ("open", [])
        assert to_be_told(shared) == ["rec1/escalation:leader/open"]


async def decided_in_doubt(
    monkeypatch: pytest.MonkeyPatch, *, lost: int, in_effect: bool, by_nobody: bool
) -> tuple[list[Escalation | None], list[str], int]:
    """What was called for, the records, and what is told, of a decision to whose commits so many replies are lost."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        called: list[Escalation | None] = []
        flows.store.escalations.on_decided = called.append
        await opened(flows)
        shared.clock.advance(MINUTE)
        committed, replies = MemoryTransaction.commit, [True] * lost

        async def commit(self: MemoryTransaction) -> None:
            is_lost = bool(replies) and Key("escalation", "rec1") in self._rows  # others' commits have their replies
            if in_effect or not is_lost:
                await committed(self)
            if is_lost:
                replies.pop()
                raise OutcomeUnknown("the reply was lost")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryTransaction, "commit", commit)
            if by_nobody:
                done = await flows.store.escalations.time_out("rec1")
            else:
                done = await flows.store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        assert called == [done]
        assert stored(shared) == done
        return called, [note.action for note in entries(shared)], len(to_be_told(shared))


@pytest.mark.parametrize("in_effect", [True, False])
@pytest.mark.parametrize("by_nobody", [True, False])
async def test_a_decision_whose_reply_is_lost_is_carried_out(
    monkeypatch: pytest.MonkeyPatch, *, in_effect: bool, by_nobody: bool
) -> None:
    """Once, with one record: L3 is asked what it did. If it does not tell then either, nobody knows."""
    called, actions, told = await decided_in_doubt(monkeypatch, lost=1, in_effect=in_effect, by_nobody=by_nobody)
    assert (len(called), actions, told) == (1, ["resolved"], 2)
    if not in_effect:
        with pytest.raises(OutcomeUnknown):
            await decided_in_doubt(monkeypatch, lost=2, in_effect=in_effect, by_nobody=by_nobody)


async def test_mutant_one_is_taken_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then who decided is told that somebody was faster, and nothing is done."""
    monkeypatch.setattr(rules, "is_same_decision", lambda *_: False)
    with pytest.raises(EscalationSettled, match="ada"):
        await decided_in_doubt(monkeypatch, lost=1, in_effect=True, by_nobody=False)


@pytest.mark.parametrize("words", [{"decision": ""}, {"by": ""}, {"reason": "x" * 4001}])
async def test_what_cannot_be_a_decision_is_refused(words: dict[str, str]) -> None:
    """And the escalation stays as it is."""
    async with hall("a") as shared:
        await still(shared)
        await opened(shared.servers["a"])
        with pytest.raises(InvalidKey):
            await shared.servers["a"].store.escalations.resolve(
                "rec1", **{"decision": "wait", "by": "ada", "reason": "why"} | words
            )
        assert (stored(shared).status, entries(shared)) == ("open", [])


async def test_one_that_is_not_there_is_said_to_be_none() -> None:
    """Nothing is recorded."""
    async with hall("a") as shared:
        assert await shared.servers["a"].store.escalations.get("rec1") is None
        with pytest.raises(NotFound, match="there is no escalation rec1; `holdfast escalations list`"):
            await shared.servers["a"].store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        assert entries(shared) == []


async def test_what_nobody_answers_is_left_to_the_fallback_by_one_server() -> None:
    """By L3's clock, whichever sweeps; who acts on it is told once, with the record that no person answered."""
    async with hall() as shared:
        await still(shared)
        fallen: dict[str, list[Escalation]] = {name: [] for name in shared.servers}
        for name, flows in shared.servers.items():
            flows.store.escalations.on_decided = fallen[name].append
        await opened(shared.servers["a"])
        sweepers = [flows.run_flows.escalation_sweeper for flows in shared.servers.values()]
        shared.clock.advance(MINUTE - 1.0)
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        assert (stored(shared).status, fallen) == ("open", {"a": [], "b": []})
        shared.clock.advance(1.0)
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        done = stored(shared)
        assert (done.status, done.decision) == ("timed_out", "read_only_mode")
        assert fallen == {"a": [], "b": []} | {done.resolved_by: [done]}
        (note,) = entries(shared)
        why = f"no person answered until {done.deadline}: left to read_only_mode"
        assert (note.actor, note.reason) == (done.resolved_by, why)
        assert sum(flows.counters.escalations.timed_out for flows in shared.servers.values()) == 1
        with pytest.raises(EscalationSettled, match="had timed out and was left to its fallback"):
            await shared.servers["b"].store.escalations.resolve("rec1", decision="wait", by="ada", reason="late")


async def test_a_server_knows_how_old_the_oldest_is() -> None:
    """What is decided counts no more, and what cannot be read is no fault of the sweeper's."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await opened(flows)
        shared.clock.advance(10.0)
        await flows.store.escalations.observe_oldest()
        assert flows.counters.escalations.oldest_open_seconds == 10.0
        await flows.store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        await flows.store.escalations.observe_oldest()
        assert flows.counters.escalations.oldest_open_seconds == 0.0
        await shared.l3.raw_put(Key("escalation", "broken"), b'{"subject": 5}')
        await flows.store.escalations.observe_oldest()
        assert flows.counters.escalations.oldest_open_seconds == 0.0


async def test_what_cannot_be_read_is_no_work_for_each_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are L3 is asked once, and they are not reported each time."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await shared.l3.raw_put(Key("escalation", "broken1"), b'{"subject": 5}')
        await shared.l3.raw_put(Key("escalation", "broken2"), b'{"subject": 5}')
        await opened(flows)
        shared.clock.advance(10.0)
        index, asked = flows.store.escalations.index, list[int]()
        listed = index.list

        async def counted(**how: Any) -> Any:
            rows = await listed(**how)
            asked.append(len(rows))
            return rows

        monkeypatch.setattr(index, "list", counted)
        await flows.store.escalations.observe_oldest()
        assert flows.counters.escalations.oldest_open_seconds == 10.0
        assert (asked, flows.counters.recovery.reported) == ([3], 0)


async def test_a_server_sweeps_by_itself() -> None:
    """From its start on, and notes the age of the oldest with each sweep."""
    naps = asyncio.Semaphore(0)

    async def nap(_: float) -> None:
        naps.release()
        await asyncio.sleep(0.001)

    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await opened(flows)
        await opened(flows, "rec2", timeout_seconds=2 * MINUTE)
        shared.clock.advance(MINUTE)
        escalations = flows.store.escalations
        sweeper = OverdueSweeper(escalations, nap, "escalation", also=escalations.observe_oldest)
        sweeper.start()
        await naps.acquire()
        await sweeper.stop()
        assert (stored(shared).status, stored(shared, "rec2").status) == ("timed_out", "open")
        assert flows.counters.escalations.oldest_open_seconds == MINUTE


async def test_a_hook_is_told_until_it_has_taken_the_notice() -> None:
    """Under one idempotency key; then of the decision, also when a server made it that has no such hook."""
    pager = Hook()
    pager.failures = 2
    async with hall("a") as shared, shared.server("b", escalation_hooks={"pager": pager}) as flows:
        await still(shared)
        await opened(flows)
        for _ in range(3):
            assert await bring(flows, "pager") == 1
            shared.clock.advance(MINUTE)
        assert await bring(flows, "pager") == 0
        assert [notice.status for notice, _ in pager.told] == ["open"] * 3
        assert len({key for _, key in pager.told}) == 1
        await shared.servers["a"].store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        assert await bring(shared.servers["a"]) == 2  # the leader's, of both
        assert await bring(flows, "pager") == 1
        notice, _ = pager.told[-1]
        assert (notice.id, notice.status, notice.decision, notice.resolved_by) == ("rec1", "resolved", "wait", "ada")
        assert to_be_told(shared) == []


class Forgetful(Escalations):
    """Mutant: who decides tells its own hooks, and not those that were told when it was opened."""

    async def _to_be_told(self, transaction: Transaction, identifier: str, escalation: Escalation) -> None:
        own = msgspec.structs.replace(escalation, hooks=list(self._hooks))
        await super()._to_be_told(transaction, identifier, own)


async def test_without_their_names_hooks_of_others_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command, which has no hooks, would decide and leave them waiting."""
    monkeypatch.setattr(run_flows, "Escalations", Forgetful)
    async with hall("a") as shared, shared.server("b", escalation_hooks={"pager": Hook()}) as flows:
        await still(shared)
        await opened(flows)
        await shared.servers["a"].store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        assert "rec1/escalation:pager/resolved" not in to_be_told(shared)


async def test_the_leader_is_told_by_a_reliable_event() -> None:
    """Each state once, typed, with who leads the swarm; also to a group that comes back later."""
    async with hall() as shared:
        await still(shared)
        a, b = shared.servers.values()
        await a.store.swarms.put("s1", Swarm(name="s", swarm_leader="b7"))
        notes = Notes()
        b.store.subscribe("swarm/escalation/*", notes, group="leaders")
        await opened(a, swarm_id="s1")
        await opened(a, "rec2", swarm_id="nowhere")
        await opened(a, "rec3")
        assert await bring(b) == 3  # what is of no swarm is told to no leader
        await notes.until(2)
        await a.store.escalations.resolve("rec1", decision="wait", by="ada", reason="why")
        shared.clock.advance(MINUTE)
        await b.run_flows.escalation_sweeper.sweep()
        assert await bring(b) == 3
        await notes.until(4)
        told = {(event.type, event.data["recoveryId"]): event for event in notes.events}
        assert set(told) == {
            ("swarm/escalation/opened", "rec1"),
            ("swarm/escalation/opened", "rec2"),
            ("swarm/escalation/resolved", "rec1"),
            ("swarm/escalation/timed_out", "rec2"),
        }
        first = told["swarm/escalation/opened", "rec1"]
        notice = msgspec.convert(first.data, LeaderNotice)
        assert notice.escalation is not None
        assert (notice.leader_bot_id, notice.swarm_id, notice.escalation.id) == ("b7", "s1", "rec1")
        assert (first.metadata.delivery.value, first.metadata.priority.value) == ("reliable", "high")
        assert told["swarm/escalation/opened", "rec2"].data["leaderBotId"] is None


async def test_what_l2_does_not_take_is_told_later() -> None:
    """An event that could not be published is a delivery that failed: it is made again."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await opened(flows, swarm_id="s1")
        published = flows.bus.publish

        async def away(*_: Any, **__: Any) -> None:
            raise TierUnavailable("L2 is away")

        flows.bus.publish = away  # type: ignore[method-assign,assignment]
        assert await bring(flows) == 1
        (row,) = await flows.store.deliveries.list()
        assert (row.attempts, row.dead, row.error) == (1, False, "TierUnavailable: L2 is away")
        flows.bus.publish = published  # type: ignore[method-assign]
        shared.clock.advance(MINUTE)
        assert await bring(flows) == 1
        assert to_be_told(shared) == []


async def test_anybody_may_ask_a_person() -> None:
    """With options, and without a recovery; each time it is another escalation."""
    async with hall("a") as shared:
        await still(shared)
        escalations: Escalations = shared.servers["a"].store.escalations
        asked: dict[str, Any] = {"failed": "two bots claim the same desk", "options": ["b1", "b2"]}
        one, two = [await escalations.open("desk:d1", **asked) for _ in range(2)]
        assert one != two
        with pytest.raises(SettingsError, match="one of: b1, b2"):
            await escalations.resolve(one, decision="b3", by="ada", reason="why")
        assert (await escalations.resolve(one, decision="b2", by="ada", reason="why")).decision == "b2"
        assert [each.id for each in await escalations.list()] == [two]
        assert [each.id for each in await escalations.list(status=None)] == [one, two]


async def test_no_user_has_a_hooks_name() -> None:
    """Neither as an exporter nor as a hook of their own: what is told to one would reach another."""
    hook = Hook()
    with pytest.raises(SettingsError, match="leader is the name of a hook that is built in"):
        connect(escalation_hooks={"leader": hook})
    with pytest.raises(SettingsError, match="1 to 40 of a-z"):
        connect(escalation_hooks={"no name": hook})
    for name in exporters_of({"pager": hook}):
        with pytest.raises(SettingsError, match="1 to 40 of a-z"):
            connect(exporters={name: hook})  # type: ignore[dict-item]


async def test_an_escalation_is_not_read_inside_other_transactions() -> None:
    """Who escalates inside a transaction of their own waits for nobody: it is opened by one of its own."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        async with flows.store.transaction(Isolation.READ_COMMITTED) as transaction:
            await transaction.bots.get("b1", lock=True)
            await opened(flows)
        assert stored(shared).status == "open"
