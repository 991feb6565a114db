"""The report in words."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from holdfast.cli.demo.corpus import Collision
from holdfast.cli.demo.killing import KillReport
from holdfast.cli.demo.messages import Lost
from holdfast.cli.demo.oddities import Oddity
from holdfast.cli.demo.printing import print_report
from holdfast.cli.demo.progress import Phases
from holdfast.cli.demo.readings import RunsReading, TierReading, WriteReading
from holdfast.cli.demo.report import Malformed, Report, SwarmReport
from holdfast.cli.demo.success import Judgement, Verdict

LONG = "routines/" + "very-long-folder-name/" * 8 + "x.json"


KILL = KillReport(
    server="server 2",
    swarm="one",
    step=2,
    run="run-1.one",
    resumed_by="server 1",
    found_seconds=2.25,
    resumed_seconds=2.5,
    orphans=["run-1.one", "run-1.one.2"],
    taken_again=1,
    acknowledged_steps=2,
    missing_steps=0,
    writes=3,
    acknowledged_writes=1,
    found_writes=1,
    lost=Lost(),
)


def report(differences: list[str], kill: KillReport | None = None) -> Report:
    """A report of two swarms, the second with these differences."""
    equal = SwarmReport(
        name="one",
        source="scenarios/one.json",
        shape="flow",
        steps=2,
        servers=["server 1", "server 2"],
        differences=[],
        conditions=[
            Judgement("bags >=80", Verdict.MET, "is 84"),
            Judgement("event late", Verdict.UNMET, "not in the recording, which is complete"),
            Judgement("mood is [high]", Verdict.NOT_COVERED, "the recording has no measure of it"),
        ],
        oddities=[Oddity("free text", "step 2", "'[b]bold[/b]' names no event and no routine")],
    )
    other = SwarmReport("two", "scenarios/two.json", "sequence", 1, ["server 2"], differences, [], [])
    return Report(
        input="in",
        run="run-1",
        servers=2,
        files={"scenarios": 2},
        documents={"teams": 1, "swarms": 2},
        seconds={"load": 0.25},
        tiers=[TierReading("l1", 3, 2, 0.0101, 0.25), TierReading("l2", 0, 2, None, None)],
        states_read=5,
        states_written=6,
        write_p50_ms=1.5,
        write_p95_ms=None,
        writes=WriteReading(9, 2, 7, 2, 4, 2.25, 5, 188.4),
        runs=RunsReading(5, 8, 13),
        swarms=[equal, other],
        malformed=[
            Malformed(LONG, "Expecting value (column 3)", 25, None),
            Malformed("agents/b.json", "expected `str`, got `int`", None, "identity.name"),
        ],
        collisions=[Collision("routines", "7", "routines/a.json", "routines/b.json", "7@routines/b.json")],
        remarks=["agents/c.json: 'k' stands twice in one object; the last counts"],
        kill=kill,
    )


def printed(given: Report) -> list[str]:
    """The report's lines as a pipe of 80 columns gets them."""
    stream = io.StringIO()
    print_report(given, Console(file=stream, width=80))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "States loaded: 1 teams, 2 swarms",
        "States read: 5; written: 6",
        "Writes: p50 1.500 ms, p95 - ms",
        "Write-behind: 9 writes accepted, 7 journaled, 2 committed at once; 2 were no operations, and updates",
        "  brought to L3 by 4 commits of 2.2 writes on average, 5 at most; largest loss window 188 ms",
        "Runs: 5, one for each scenario and one below it for each step; 8 checkpoints, 13 snapshots with the bases",
        "one (scenarios/one.json; shape flow, 2 steps on server 1, server 2 in turn)",
        "  success conditions: 1 met, 1 unmet, 1 not covered",
        "    met         bags >=80 (is 84)",
        "    unmet       event late (not in the recording, which is complete)",
        "    not covered mood is [high] (the recording has no measure of it)",
        "  odd: step 2: free text: '[b]bold[/b]' names no event and no routine",
        "  the scenario states no success conditions",
        "Malformed files, of which nothing was imported: 2",
        f"  {LONG}, line 25: Expecting value (column 3)",
        "  agents/b.json: identity.name: expected `str`, got `int`",
        "  7 stays with routines/a.json; another becomes 7@routines/b.json",
        "  agents/c.json: 'k' stands twice in one object; the last counts",
        "2 of 2 swarms, read by a server with cold caches, equal the replay",
    ],
)
def test_pipe_gets_every_fact_on_one_whole_line(line: str) -> None:
    """Facts are neither wrapped nor cut, however long, and brackets are text."""
    assert line in printed(report([]))


def test_tiers_are_a_table() -> None:
    """Each tier has its hits, misses and percentiles; a tier without hits has no latencies."""
    rows = [line.split() for line in printed(report([])) if line.startswith("│")]

    assert ["│", "L1", "│", "3", "│", "2", "│", "0.010", "│", "0.250", "│"] in rows
    assert ["│", "L2", "│", "0", "│", "2", "│", "-", "│", "-", "│"] in rows


def test_difference_is_printed_and_fails_the_report() -> None:
    """A swarm that differs is shown with what differs, and not counted as equal."""
    given = report(["from L3: counter 'steps': the replay has 2, the server has 1"])

    lines = printed(given)

    assert not given.passed
    assert "  DIFFERS: from L3: counter 'steps': the replay has 2, the server has 1" in lines
    assert lines[-1] == "1 of 2 swarms, read by a server with cold caches, equal the replay"


def test_a_kill_is_told_with_what_it_cost() -> None:
    """Which run, at which step, how long it took, and that nothing is missing."""
    given = report([], KILL)

    lines = printed(given)

    at = next(place for place, line in enumerate(lines) if line.startswith("Killed: "))
    assert " ".join(lines[at : at + 3]) == (
        "Killed: server 2, with -9, in the middle of step 2 of one, with 1 of its 3 writes acknowledged; it had 1 "
        "steps in hand   run run-1.one was found as orphaned after 2.2 s, one of 2, and resumed by server 1 after "
        "2.5 s, which found 1 of the writes and made 2   of 2 steps acknowledged before, 0 are missing; the contexts "
        "lost 0 steps, 0 variables, 0.0 s"
    )
    assert lines[-1].endswith("equal the replay; a server was killed, and nothing that was acknowledged was lost")
    assert given.passed


@pytest.mark.parametrize("missing", [{"missing_steps": 1}, {"found_writes": 0}, {"lost": Lost(1, 0, 2.0)}])
def test_lost_work_fails_the_report(missing: dict[str, Any]) -> None:
    """Though all swarms equal the replay: a step that was lost and taken again would hide it."""
    given = report([], msgspec.structs.replace(KILL, **missing))

    assert not given.passed
    assert printed(given)[-1].endswith("a server was killed, and ACKNOWLEDGED WORK WAS LOST")


def test_phases_print_one_line_each_in_a_pipe() -> None:
    """Where there is no terminal, a finished phase is one line, and its time is kept."""
    stream = io.StringIO()
    ticks = iter([10.0, 11.0, 12.5])
    phases = Phases(Console(file=stream, width=80), lambda: next(ticks))

    with phases.phase("load", "loading 3 documents", 3) as advance:
        advance(3)

    assert stream.getvalue() == "loading 3 documents: done in 2.5 s\n"
    assert phases.seconds == {"load": 2.5}


def test_long_phase_says_in_a_pipe_how_far_it_is() -> None:
    """A phase that takes long says every ten seconds how much of it is done."""
    stream = io.StringIO()
    ticks = iter([0.0, 4.0, 11.0, 12.0, 25.0, 26.0])
    phases = Phases(Console(file=stream, width=80), lambda: next(ticks))

    with phases.phase("replay", "replaying", 4) as advance:
        for _ in range(4):
            advance(1)

    assert stream.getvalue() == "replaying: 2 of 4 after 11 s\nreplaying: done in 26.0 s\n"
