"""Escalations on real servers: decided from a shell or by whoever sweeps first, and told to a real webhook."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_feed import connected
from fix_http import Endpoint, endpoint
from fix_races import until
from fix_tiers import flows_of
from holdfast import EscalationNotice, EscalationSettled, Settings, SettingsError
from holdfast.decisions.sweeper import OverdueSweeper
from holdfast.documents import Escalation
from holdfast.node import OpenStore

ID: Final = "rec1"
TRIED = [("force_reload_from_l3", "the row is as it was"), ("notify_swarm_leader", "told")]
Command = Callable[..., Awaitable[tuple[int, list[dict[str, Any]]]]]


@pytest.fixture
async def state(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenStore]:
    """Server A, and its tiers for commands."""
    name_servers(settings, monkeypatch)
    async with holdfast.connect(msgspec.structs.replace(settings, journal_replicas=0)) as state:
        yield state


@pytest.fixture
def escalations(state: OpenStore, capsys: pytest.CaptureFixture[str]) -> Command:
    """Status and output of `holdfast escalations ...`, for programs."""

    async def run(*words: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        status = await run_command("escalations", *words)
        lines = capsys.readouterr().out.splitlines()
        return status, [json.loads(each) for each in lines if each.startswith("{")]

    return run


async def opened(state: OpenStore, name: str = ID, timeout_seconds: float = 600.0, **how: Any) -> str:
    """Ask about a fault."""
    asked: dict[str, Any] = {
        "failed": "it does not decode",
        "severity": "CRITICAL",
        "tried": TRIED,
        "fallback": "read_only_mode",
        "run_id": "r1",
    }
    return await state.escalations.open("run:r1", recovery_id=name, timeout_seconds=timeout_seconds, **asked | how)


async def test_a_command_decides_nothing_that_is_overdue(
    state: OpenStore, escalations: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be gone before the fallback is done."""
    await opened(state)
    started = list[OverdueSweeper]()
    monkeypatch.setattr(OverdueSweeper, "start", started.append)
    status, (listed,) = await escalations("list")
    assert (status, listed["id"], started) == (0, ID, [])


async def test_a_command_recovers_from_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be gone before that is done, and of its escalation no server's hook would hear; it keeps what is bad."""
    name_servers(settings, monkeypatch)
    async with holdfast.connect(settings) as state:
        await (await state.runs.begin("search", run_id="r1")).release()
    async with connected(settings.postgres_url) as database:
        await database.execute("""UPDATE holdfast."Run" SET document = '{"routineId": 7}' WHERE id = 'r1'""")
        with pytest.raises(holdfast.CorruptDocument, match="run:r1"):
            await run_command("runs", "show", "r1")
        assert [row["id"] for row in await database.fetch("SELECT id FROM holdfast.quarantine")] == ["r1"]
        assert await database.fetch('SELECT id FROM holdfast."Escalation"') == []
        assert await database.fetch("SELECT step FROM holdfast.recovery_log") == []


async def test_escalations_are_listed_shown_and_decided(state: OpenStore, escalations: Command) -> None:
    """By another process than the one that has opened them; once, and with a record."""
    await opened(state)
    _, (listed,) = await escalations("list")
    assert (listed["id"], listed["status"]) == (ID, "open")
    _, (shown,) = await escalations("show", ID)
    assert [each["step"] for each in shown["tried"]] == [step for step, _ in TRIED]
    assert shown["deadline"] > shown["openedAt"]
    done = await escalations("resolve", ID, "--decision", "restore r1 from yesterday", "--reason", "she knows")
    assert done == (0, [])
    assert await escalations("list") == (0, [])
    _, (decided,) = await escalations("list", "--status", "any", "--run", "r1")
    assert decided["decision"] == "restore r1 from yesterday"
    with pytest.raises(EscalationSettled, match="restore r1 from yesterday"):
        await escalations("resolve", ID, "--decision", "wait", "--reason", "again")
    with pytest.raises(holdfast.NotFound, match="there is no escalation rec2"):
        await escalations("show", "rec2")
    (entry,) = await state.audit.list()
    assert (entry.note.subject, entry.note.reason) == (f"escalation:{ID}", "she knows")
    assert (await state.audit.verify()).broken is None


async def test_a_decision_is_one_of_the_options(state: OpenStore, escalations: Command) -> None:
    """Which the error names."""
    identifier = await state.escalations.open("desk:d1", failed="two bots claim it", options=["b1", "b2"])
    with pytest.raises(SettingsError, match="one of: b1, b2"):
        await escalations("resolve", identifier, "--decision", "b3", "--reason", "why")
    await escalations("resolve", identifier, "--decision", "b2", "--reason", "why")


async def test_who_decides_for_a_fallback_is_told_where_to_look(
    state: OpenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is over before anybody can say what came of it; its own log is not lost."""
    await opened(state, error_type="context_corruption", options=["emergency_state_rebuild", "leave"])
    capsys.readouterr()
    words = "--decision", "emergency_state_rebuild", "--reason", "why"
    assert await run_command("escalations", "resolve", ID, *words) == 0
    assert f"what came of it is in `holdfast recovery log --recovery {ID}`" in capsys.readouterr().err
    await run_command("recovery", "log", "--recovery", ID)
    lines = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert [(each["step"], each["outcome"]) for each in lines] == [
        ("emergency_state_rebuild", "failed"),  # there is no such run
        ("completed", "failed"),
    ]


async def test_a_terminal_gets_words(
    state: OpenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table, and lines, in which nothing of what was escalated acts."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "240")

    async def printed(*words: str) -> str:
        capsys.readouterr()
        await run_command("escalations", *words)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    assert "there is no such escalation" in await printed("list")
    await opened(state)
    await state.escalations.open("desk:\x1b[2J", failed="[b]two claim it[/b]", options=["b1", "b2"], swarm_id="s1")
    table = await printed("list")
    assert re.search(r"rec1 +open +CRITICAL +run:r1", table)
    assert "desk:\\u001b[2J" in table
    assert "[b]two claim it[/b]" in table
    shown = await printed("show", ID)
    assert "tried force_reload_from_l3: the row is as it was" in shown
    assert re.search(r"to be decided until .*, then: read_only_mode", shown)
    await state.escalations.resolve(ID, decision="wait", by="ada", reason="she knows")
    shown = await printed("show", ID)
    assert re.search(r"decided .* by ada: wait; she knows", shown)
    assert re.search(r"to be decided until .*, then: read_only_mode", shown)  # as it was before


async def test_a_sweeper_and_a_person_cannot_both_decide(settings: Settings) -> None:
    """Whoever is second is told who was first; the records are as many as the escalations."""
    given = msgspec.structs.replace(settings, journal_replicas=0)
    async with holdfast.connect(given) as one, holdfast.connect(given) as two:
        for state in (one, two):
            await flows_of(state).run_flows.escalation_sweeper.stop()
        names = [await opened(one, f"rec{number}", 0.001) for number in range(20)]

        async def resolve(name: str) -> str:
            try:
                return (await two.escalations.resolve(name, decision="wait", by="ada", reason="why")).resolved_by
            except EscalationSettled as late:
                return late.by

        sweepers = [flows_of(state).run_flows.escalation_sweeper for state in (one, two)]
        deciders, *_ = await asyncio.gather(
            asyncio.gather(*map(resolve, names)), sweepers[0].sweep(), sweepers[1].sweep()
        )
        stored = {each.id: each.document.resolved_by for each in await one.escalations.list(status=None)}
        assert dict(zip(names, deciders, strict=True)) == stored
        recorded = {entry.note.subject: entry.note.actor for entry in await one.audit.list()}
        assert recorded == {f"escalation:{name}": by for name, by in stored.items()}
        counters = [flows_of(state).counters.escalations for state in (one, two)]
        assert sum(each.timed_out + each.resolved for each in counters) == 20


async def test_what_nobody_answers_is_left_to_the_fallback(settings: Settings) -> None:
    """Behind its deadline, by L3's clock, on whichever of two servers that serve; who acts on it is told once."""
    given = msgspec.structs.replace(settings, journal_replicas=0)
    async with holdfast.connect(given) as one, holdfast.connect(given) as two:
        fallen: list[Escalation] = []
        for state in (one, two):
            state.escalations.on_decided = fallen.append
        await opened(one, timeout_seconds=0.05)

        async def is_decided() -> bool:
            return bool(fallen)

        await until(is_decided)
        stored = await two.escalations.get(ID)
        assert stored is not None
        assert (stored.status, stored.decision) == ("timed_out", "read_only_mode")
        (entry,) = await two.audit.list()
        assert entry.note.reason == f"no person answered until {stored.deadline}: left to read_only_mode"
        assert fallen == [stored]


async def test_of_many_who_escalate_one_recovery_one_opens_it(settings: Settings) -> None:
    """In L3 the insert of one is the conflict of the others; its hooks are told of one."""
    given = msgspec.structs.replace(settings, journal_replicas=0)
    async with holdfast.connect(given) as one, holdfast.connect(given) as two:
        for state in (one, two):
            await flows_of(state).run_flows.delivery_worker.stop()
        names = await asyncio.gather(*(opened(state) for state in (one, two) for _ in range(8)))
        assert set(names) == {ID}
        assert len(await one.escalations.list()) == 1
        assert [each.id for each in await two.deliveries.list()] == [f"{ID}/escalation:leader/open"]
        assert sum(flows_of(state).counters.escalations.opened for state in (one, two)) == 1


async def test_a_real_webhook_and_a_hook_and_the_leader_are_told(settings: Settings) -> None:
    """Of what was opened and of what was decided; the webhook again after it had failed."""
    hooked: list[EscalationNotice] = []

    async def hook(notice: EscalationNotice, _: str) -> None:
        hooked.append(notice)

    with endpoint() as seen:
        seen.statuses = [503]
        given = msgspec.structs.replace(
            settings,
            journal_replicas=0,
            escalation_webhook_url=f"http://127.0.0.1:{seen.port}/T0",
            escalation_webhook_secret="between us",
        )
        async with holdfast.connect(given, escalation_hooks={"pager": hook}) as state:
            events: list[str] = []

            async def note(event: holdfast.Event) -> None:
                events.append(event.type)

            state.subscribe("swarm/escalation/*", note, group="leaders")
            await opened(state, swarm_id="s1")
            await told(seen, 2)
            await state.escalations.resolve(ID, decision="wait", by="ada", reason="she knows")
            await told(seen, 3)

            async def all_are_told() -> bool:
                return len(events) == len(hooked) == 2 and not await state.deliveries.list()

            await until(all_are_told)
    bodies = [msgspec.json.decode(each.body, type=EscalationNotice) for each in seen.posted]
    assert [each.status for each in bodies] == ["open", "open", "resolved"]
    assert len({each.headers["Idempotency-Key"] for each in seen.posted[:2]}) == 1
    assert [each.status for each in hooked] == ["open", "resolved"]
    assert events == ["swarm/escalation/opened", "swarm/escalation/resolved"]


async def told(seen: Endpoint, times: int) -> None:
    """Wait until something was posted so often."""

    async def has_come() -> bool:
        return len(seen.posted) == times

    await until(has_come)


ASK = holdfast.StateRecoveryStrategy(
    error_type=holdfast.StateErrorType.STATE_CORRUPTION,
    severity=holdfast.Severity.CRITICAL,
    recovery_steps=(holdfast.RecoveryStep(action=holdfast.RecoveryAction.ESCALATE_TO_HUMAN),),
    fallback_options=(),
)


async def test_of_a_bad_row_that_all_servers_meet_a_person_is_asked_once(settings: Settings) -> None:
    """In the words of the fault, by the row of the server's own table, for as long as the setting says."""
    given = msgspec.structs.replace(settings, journal_replicas=0, escalation_timeout_seconds=7200.0)
    async with holdfast.connect(given, recovery=[ASK]) as one, holdfast.connect(given, recovery=[ASK]) as two:
        await one.bots.put("b1", holdfast.Bot(name="Ada"))
        async with one.transaction() as transaction:
            words = """UPDATE holdfast."User" SET document = '{"name": 7}' WHERE id = 'b1'"""
            await transaction.connection.execute(words)
        for state in (one, two):

            async def is_met(state: OpenStore = state) -> bool:
                with contextlib.suppress(holdfast.CorruptDocument):
                    await state.bots.get("b1", consistency=holdfast.Consistency.STRONG)
                return flows_of(state).counters.recovery.escalated == 1

            await until(is_met)
        (asked,) = [each.document for each in await two.escalations.list(status=None)]
        assert "at name: Expected `str`, got `int`" in asked.failed
        assert asked.tried == []
        assert asked.deadline is not None
        assert asked.opened_at is not None
        assert (asked.deadline - asked.opened_at).total_seconds() == 7200.0
        assert [each.document.evidence for each in await one.escalations.list()] == [asked.evidence]

        async def is_kept() -> bool:  # evidence is written behind
            return bool(await one.quarantine.list())

        await until(is_kept)
        (kept,) = await one.quarantine.list()
        held = await one.quarantine.get(kept.number)
        assert held is not None
        assert hashlib.sha256(held.found.evidence).hexdigest() == asked.evidence


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--after", str(2**70)), SystemExit),
        (("--after", "-1"), SystemExit),
        (("--run", "a\0b"), holdfast.InvalidKey),
        (("--run", "\udcff"), holdfast.InvalidKey),
    ],
)
async def test_what_can_be_no_place_is_refused_as_such(
    words: tuple[str, ...], error: type[BaseException], escalations: Command
) -> None:
    """And is no fault of L3's."""
    with pytest.raises(error):
        await escalations("list", *words)
