"""The main job, run for real: server processes over PostgreSQL and the Valkey cluster."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from rich.console import Console

import holdfast
from fix_servers import stopped_after
from holdfast import Settings, Swarm
from holdfast.cli.demo import fleet, runner
from holdfast.cli.demo.command import SHIPPED_INPUT, demo
from holdfast.cli.demo.corpus import load_corpus
from holdfast.cli.demo.dispute import BADGE_VALUE
from holdfast.cli.demo.fleet import ServerFailedError, ServerProcess, running
from holdfast.cli.demo.job import load_stock, server_environment
from holdfast.cli.demo.messages import ReadCommand, ReadReply
from holdfast.cli.demo.progress import Phases
from holdfast.cli.demo.replay import Outcome, replay
from holdfast.cli.demo.runner import Runner
from holdfast.cli.demo.scenario import Scenario
from holdfast.cli.demo.stock import Stock, build_stock
from holdfast.documents import Limits
from holdfast.embedded.servers import EmbeddedOptions, Running, status
from holdfast.sensitivity.master_keys import master_key_line

COMMAND = (sys.executable, "-c", "from holdfast.cli import main; main()", "demo")
DEADLINE_SECONDS = 60.0


@pytest.fixture
def settings(servers: Running, postgres_url: str, redis_prefix: str) -> Settings:
    """A database and a key prefix of the test's own."""
    return Settings(
        postgres_url=postgres_url, redis_urls=servers.redis_urls, key_prefix=redis_prefix, journal_replicas=0
    )


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The same for other processes."""
    return {**server_environment(settings, 3), "HOLDFAST_KEY_PREFIX": settings.key_prefix}


@asynccontextmanager
async def demo_process(environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Process]:
    """The command in a process of its own, as a user starts it; killed if the test does not see it end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env={**inherited, **environment}, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run_demo(environment: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run the command to its end: status, output, errors."""
    async with demo_process(environment, *arguments) as process:
        out, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
        assert process.returncode is not None
        return process.returncode, out.decode(), errors.decode()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the test fails if it does not in time."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nothing signals that another process has gone
            await asyncio.sleep(0.01)


async def test_shipped_input_ends_equal_to_the_replay(environment: dict[str, str], tmp_path: Path) -> None:
    """The demo of the shipped input ends 0, and its report has the facts of the run."""
    code, out, errors = await run_demo(environment, "--json", str(tmp_path / "report.json"))

    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["documents"] == {"teams": 4, "bots": 13, "routines": 18, "swarms": 3}
    swarms = {swarm["name"]: swarm for swarm in report["swarms"]}
    assert {name: (swarm["steps"], swarm["differences"]) for name, swarm in swarms.items()} == {
        "flood-warning": (7, []),
        "museum-move": (8, []),
        "seed-exchange": (4, []),
    }
    for swarm in swarms.values():
        assert len(swarm["servers"]) == swarm["steps"]
        assert all(before != after for before, after in itertools.pairwise(swarm["servers"]))
    assert {odd["sort"] for swarm in swarms.values() for odd in swarm["oddities"]} == {
        "step without action",
        "alternative events",
        "free text",
        "routine without mock",
        "unclaimed result",
        "unused mock",
    }
    assert report["runs"] == {"runs": 22, "checkpoints": 2 * 19, "snapshots": 22 + 2 * 19}
    assert report["kill"] is None
    verdicts = [condition["verdict"] for condition in swarms["flood-warning"]["conditions"]]
    assert [verdicts.count(verdict) for verdict in ("met", "unmet", "not covered")] == [7, 1, 3]
    _check_figures(report)
    assert "replaying 3 scenarios, 19 steps, on 2 servers: done in " in out
    assert out.endswith("3 of 3 swarms, read by a server with cold caches, equal the replay\n")
    assert "\x1b" not in out


async def test_runs_that_contradict_each_other(environment: dict[str, str], tmp_path: Path) -> None:
    """The scenario of conflicts ends 0; each strategy has decided, and a person on the other server, once."""
    key = master_key_line("m1", os.urandom(32))
    environment = {**environment, "HOLDFAST_MASTER_KEYS": key}
    code, out, errors = await run_demo(environment, "--conflicts", "--json", str(tmp_path / "report.json"))
    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {each["strategy"]: len(each["reasons"]) for each in report["outcomes"]} == {
        "parent_wins": 2,
        "child_wins": 2,
        "merge_objects": 2,
        "keep_latest": 2,
        "manual_review": 1,
    }
    assert all(each["stands"] == each["expected"] for each in report["outcomes"])
    assert (report["blackboard"], report["refused"]) == (["summary"], ["badge to blackboard"])
    assert (report["secret_opened"], report["secret_rows"]) == (True, 0)
    assert out.endswith("every variable is what its strategy makes of it\n")
    assert BADGE_VALUE not in out + json.dumps(report)


async def test_the_scenario_of_conflicts_takes_no_other_input(environment: dict[str, str]) -> None:
    """It says so."""
    code, _, errors = await run_demo(environment, "--conflicts", "--kill")
    assert code == 2
    assert "takes neither --input nor --kill" in errors


def _check_figures(report: dict[str, Any]) -> None:
    """The figures add up: 38 documents and 45 writes; 19 steps and 3 swarms are read past the caches once each."""
    tiers = {tier["tier"]: tier for tier in report["tiers"]}
    cached = report["states_read"] - 19 - 3
    assert report["states_written"] == 38 + 45
    assert sum(tier["hits"] for tier in tiers.values()) == report["states_read"]
    assert tiers["l1"]["hits"] + tiers["l1"]["misses"] == cached
    assert tiers["l2"]["hits"] + tiers["l2"]["misses"] == tiers["l1"]["misses"]
    assert tiers["l1"]["hits"] >= 19, "every step reads its own write from L1"
    assert tiers["l2"]["hits"] > 0, "what one server loaded, the other finds in L2"
    assert tiers["l3"]["misses"] == 0
    writes = report["writes"]
    assert (writes["accepted"], writes["updated"]) == (45, 0)
    assert writes["journaled"] + writes["committed_at_once"] == 45
    assert writes["journaled"] > writes["committed_at_once"], "few meet another swarm's flush, and none has to"
    assert 19 <= writes["commits"] < 45, "the writes of a step go to L3 together"
    assert writes["writes_per_commit"] == pytest.approx(45 / writes["commits"])
    assert writes["largest_commit"] >= 2
    assert writes["window_ms"] > 0
    assert all(0 < tier["p50_ms"] <= tier["p95_ms"] for tier in tiers.values())


async def test_a_killed_server_costs_nothing_that_was_acknowledged(environment: dict[str, str], tmp_path: Path) -> None:
    """It is killed in the middle of a step, its runs are resumed on others, and all ends as if it had not been."""
    code, out, errors = await run_demo(environment, "--kill", "--json", str(tmp_path / "report.json"))

    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [swarm["differences"] for swarm in report["swarms"]] == [[], [], []]
    assert [len(swarm["servers"]) for swarm in report["swarms"]] == [7, 8, 4]
    kill = report["kill"]
    assert (kill["swarm"], kill["step"], kill["writes"], kill["acknowledged_writes"]) == ("museum-move", 4, 3, 1)
    assert kill["run"] == f"{report['run']}.museum-move"
    assert {kill["run"], f"{kill['run']}.4"} <= set(kill["orphans"]), "the scenario's run, and that of the step"
    assert kill["resumed_by"] != kill["server"]
    assert kill["found_writes"] == 1, "it was in the journal, and was not made again"
    assert kill["taken_again"] >= 1
    assert 3 <= kill["acknowledged_steps"] < 19
    assert (kill["missing_steps"], kill["lost"]) == (0, {"steps": 0, "variables": 0, "seconds": 0.0})
    assert 0 < kill["found_seconds"] <= kill["resumed_seconds"]
    servers = next(swarm["servers"] for swarm in report["swarms"] if swarm["name"] == "museum-move")
    assert kill["server"] not in servers[3:]
    assert servers[3] == kill["resumed_by"]
    again = report["runs"]["checkpoints"] - 2 * 19  # of steps taken again, those that were kept and not acknowledged
    assert 0 <= again <= 2 * kill["taken_again"]
    assert report["runs"] == {"runs": 22, "checkpoints": 2 * 19 + again, "snapshots": 22 + 2 * 19 + again}
    assert f"Killed: {kill['server']}, with -9, in the middle of step 4 of museum-move" in out
    assert out.endswith("equal the replay; a server was killed, and nothing that was acknowledged was lost\n")


async def test_second_run_replaces_the_first(environment: dict[str, str], tmp_path: Path) -> None:
    """On the same servers the demo runs again: other servers, a faulty file, and more replicas wished than there are.

    Then nothing may count as journaled, and each write is committed before its call returns.
    """
    for folder in ("scenarios", "routines"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for name in ("flood-warning.json", "museum-move.json"):
        (tmp_path / "in" / "scenarios" / name).write_bytes((SHIPPED_INPUT / "scenarios" / name).read_bytes())
    (tmp_path / "in" / "routines" / "cut.json").write_text('{\n"id": "r1",\n')

    first = await run_demo(environment)
    unsafe = {**environment, "HOLDFAST_JOURNAL_REPLICAS": "1"}
    second = await run_demo(unsafe, "--input", str(tmp_path / "in"), "--servers", "3")

    assert [code for code, _, _ in (first, second)] == [0, 0]
    assert "  routines/cut.json, line 3: Expecting property name enclosed in double quotes (column 1)\n" in second[1]
    assert "2 of 2 swarms, read by a server with cold caches, equal the replay\n" in second[1]
    assert re.search(r"Write-behind: (\d+) writes accepted, 0 journaled, \1 committed at once", second[1])


@pytest.fixture
def stock() -> Stock:
    """The documents of the shipped input."""
    return build_stock(load_corpus(SHIPPED_INPUT), "run-1", datetime.now(UTC), Limits())


def _lose_a_record(swarm: Swarm) -> Swarm:
    return msgspec.structs.replace(swarm, records=swarm.records[:-1])


def _change_an_item(swarm: Swarm) -> Swarm:
    item = msgspec.structs.replace(swarm.blackboard[0], value="tampered")
    return msgspec.structs.replace(swarm, blackboard=[item, *swarm.blackboard[1:]])


@pytest.mark.parametrize(
    ("tamper", "difference"),
    [(_lose_a_record, "records: the replay has 4, the server has 3"), (_change_an_item, "blackboard item 'stations'")],
)
async def test_wrong_state_in_the_tiers_is_found(
    settings: Settings,
    environment: dict[str, str],
    stock: Stock,
    tamper: Callable[[Swarm], Swarm],
    difference: str,
) -> None:
    """State that is not what the steps made of it differs, through the caches and from L3."""
    took = Runner("run-1")
    await load_stock(stock, settings, Phases(Console(quiet=True)))
    async with running(["server 1", "server 2"], environment) as servers:
        await took.take_steps(stock.casts, servers, lambda _: None)
    assert all(differences == [] for differences in took.tally.differences.values())

    async with holdfast.connect(settings) as state:
        await state.swarms.update("flood-warning", tamper)
    async with running(["cold server"], environment) as cold:
        await took.compare_on(cold[0], stock.casts, lambda _: None)

    found = took.tally.differences["flood-warning"]
    assert [text.partition(": ")[0] for text in found] == ["through the caches", "from L3"]
    assert all(difference in text for text in found)
    assert took.tally.differences["museum-move"] == took.tally.differences["seed-exchange"] == []


async def test_difference_ends_with_status_1(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the replay counts otherwise than the servers, the command says so and its status is 1."""

    def other_replay(scenario: Scenario) -> Outcome:
        outcome = replay(scenario)
        outcome.counters["steps"] += scenario.name == "seed-exchange"
        return outcome

    monkeypatch.setattr(runner, "replay", other_replay)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert await demo() == 1

    out = capsys.readouterr().out
    assert "  DIFFERS: from L3: counter 'steps': the replay has 5, the server has 4\n" in out
    assert "2 of 3 swarms, read by a server with cold caches, equal the replay\n" in out


async def test_swarm_of_another_run_is_left_alone(
    settings: Settings, environment: dict[str, str], stock: Stock
) -> None:
    """A demo that finds another demo's swarms stops and says so, instead of mixing both."""
    await load_stock(stock, settings, Phases(Console(quiet=True)))

    async with running(["server 1", "server 2"], environment) as servers:
        with pytest.raises(ServerFailedError, match="belongs to run run-1, not run-2: another demo runs"):
            await Runner("run-2").take_steps(stock.casts, servers, lambda _: None)


async def test_dead_server_ends_in_one_sentence(environment: dict[str, str]) -> None:
    """Whoever waits for a server that dies gets its name and status, and nothing of it stays behind."""
    async with running(["server 1", "server 2"], environment) as servers:
        os.kill(servers[0].process_id, signal.SIGSTOP)
        waiting = asyncio.create_task(servers[0].ask(lambda at: ReadCommand(at, "s", "run-1", "run-1.s"), ReadReply))
        os.kill(servers[0].process_id, signal.SIGKILL)

        with pytest.raises(ServerFailedError, match="server 1 ended with status -9 before it was asked to"):
            await waiting
        with pytest.raises(ServerFailedError, match="server 1 ended with status -9"):
            await servers[0].ask(lambda at: ReadCommand(at, "s", "run-1", "run-1.s"), ReadReply)
    assert not any(psutil.pid_exists(server.process_id) for server in servers)


async def test_silent_server_is_given_up_and_killed(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer in time is named, and ended although it no longer hears its input close."""
    monkeypatch.setattr(fleet, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(fleet, "STOP_SECONDS", 0.2)
    async with running(["server 1"], environment) as servers:
        os.kill(servers[0].process_id, signal.SIGSTOP)

        with pytest.raises(ServerFailedError, match="server 1 did not answer a ReadCommand within 0"):
            await servers[0].ask(lambda at: ReadCommand(at, "s", "run-1", "run-1.s"), ReadReply)
    assert not psutil.pid_exists(servers[0].process_id)


async def test_server_without_tiers_says_why() -> None:
    """A server that cannot reach its tiers ends, and its own words reach the coordinator."""
    nowhere = {"HOLDFAST_POSTGRES_URL": "postgresql://127.0.0.1:1/none", "HOLDFAST_REDIS_URLS": "redis://127.0.0.1:1"}
    nowhere["HOLDFAST_L3_CONNECT_TIMEOUT_SECONDS"] = "0.5"
    server = await ServerProcess.start("server 1", nowhere)
    try:
        with pytest.raises(ServerFailedError, match=r"server 1 ended with status 1 .*: TierUnavailable: "):
            await server.ready()
    finally:
        await server.close()


async def test_server_that_talks_nonsense_is_given_up_at_once() -> None:
    """Not when its time is up: that line may have been the answer that is waited for."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('nonsense', flush=True); input()", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    server = ServerProcess("server 1", process)
    try:
        async with asyncio.timeout(fleet.START_SECONDS / 2):
            with pytest.raises(ServerFailedError, match="server 1 wrote a line that is no reply: "):
                await server.ready()
    finally:
        await server.close()


async def test_interrupt_leaves_no_process_behind(environment: dict[str, str]) -> None:
    """An interrupt while the servers start ends the command with status 130, and every server with it."""
    async with demo_process(environment, "--servers", "4") as process:
        own = psutil.Process(process.pid)
        await until(lambda: len(own.children(recursive=True)) >= 2)
        started = own.children(recursive=True)

        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)

    assert process.returncode == 130
    assert "Traceback" not in errors.decode()
    await until(lambda: not any(child.is_running() for child in started))


async def test_killed_coordinator_takes_its_servers_along(environment: dict[str, str]) -> None:
    """Even when the coordinator cannot clean up, its servers end: their input has closed."""
    async with demo_process(environment, "--servers", "4") as process:
        own = psutil.Process(process.pid)
        await until(lambda: len(own.children(recursive=True)) >= 2)
        started = own.children(recursive=True)
        process.kill()

        await until(lambda: not any(child.is_running() for child in started))


async def test_embedded_servers_started_by_the_demo_are_stopped(tmp_path: Path) -> None:
    """Without named servers the embedded ones run for the demo, and not after it."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        code, out, errors = await run_demo({"HOLDFAST_HOME": str(options.home)})

        assert (code, errors) == (0, "")
        assert "3 of 3 swarms" in out
        assert {server.state for server in await status(options)} == {"stopped"}


async def test_interrupt_while_embedded_servers_start_leaves_none(tmp_path: Path) -> None:
    """An interrupt in the middle of the start stops what had been started already."""
    async with (
        stopped_after(EmbeddedOptions(tmp_path / "home")) as options,
        demo_process({"HOLDFAST_HOME": str(options.home)}) as process,
    ):
        await until((options.home / "valkey-1" / "valkey.pid").exists)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)

        assert process.returncode == 130
        assert "Traceback" not in errors.decode()
        assert {server.state for server in await status(options)} == {"stopped"}


async def test_reader_that_goes_leaves_no_server(tmp_path: Path) -> None:
    """Piped into something that reads one line, the demo ends as by the signal, and its servers with it."""
    async with (
        stopped_after(EmbeddedOptions(tmp_path / "home")) as options,
        demo_process({"HOLDFAST_HOME": str(options.home)}) as process,
    ):
        assert process.stdout is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]  # as `head -1` does; asyncio has no other way
        await asyncio.wait_for(process.wait(), DEADLINE_SECONDS)

        assert process.returncode == 141
        assert {server.state for server in await status(options)} == {"stopped"}


async def test_server_that_dies_ends_the_demo_with_status_2(environment: dict[str, str]) -> None:
    """Status 1 is for a state that differs: a server that died is one sentence and status 2, as any other error."""
    async with demo_process(environment, "--servers", "4") as process:
        own = psutil.Process(process.pid)
        await until(lambda: len(own.children(recursive=True)) >= 2)
        own.children(recursive=True)[0].kill()
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)

    assert process.returncode == 2
    assert re.fullmatch(r"holdfast: server \d ended with status -9 before it was asked to\n", errors.decode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "nowhere"), "holdfast: nowhere is not a directory"),
        (("--json", "nowhere/report.json"), "holdfast: --json nowhere/report.json: nowhere is not a directory"),
    ],
)
async def test_bad_argument_ends_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    """What the user got wrong is one sentence on stderr and status 2, before any server is started."""
    code, out, errors = await run_demo({}, *arguments)

    assert (code, out) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
