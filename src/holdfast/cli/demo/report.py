"""What a run of the demo found, as a value. Pure."""

from __future__ import annotations

import msgspec

from holdfast.cli.demo.cast import Cast
from holdfast.cli.demo.corpus import Collision, Corpus
from holdfast.cli.demo.files import InputFileError
from holdfast.cli.demo.killing import KillReport
from holdfast.cli.demo.oddities import Oddity
from holdfast.cli.demo.readings import (
    RunsReading,
    TierReading,
    WriteReading,
    milliseconds,
    read_runs,
    read_tiers,
    read_writes,
)
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.runner import Runner, Tally
from holdfast.cli.demo.stock import Stock
from holdfast.cli.demo.success import Judgement, judge


class Malformed(msgspec.Struct, frozen=True):
    """A file of which nothing was imported.

    Attributes:
        line: from 1, where the fault is one of syntax.
        place: path inside the document, where it is one of shape.
    """

    path: str
    reason: str
    line: int | None
    place: str | None


class SwarmReport(msgspec.Struct, frozen=True):
    """One scenario.

    Attributes:
        servers: name of the server that took each step.
        differences: between the cold server's swarm and the replay; empty if they are equal.
    """

    name: str
    source: str
    shape: str
    steps: int
    servers: list[str]
    differences: list[str]
    conditions: list[Judgement]
    oddities: list[Oddity]


class Report(msgspec.Struct, frozen=True):
    """The whole run.

    Attributes:
        run: the label that this run's swarms carry.
        files: JSON files found, by folder.
        documents: loaded, by kind.
        seconds: spent, by phase.
        tiers: over all servers.
        states_read: documents read by the servers.
        states_written: documents loaded, and writes made by the servers.
        write_p50_ms, write_p95_ms: of the servers' writes, until their calls returned.
        writes: what became of these.
        kill: what came of the server that was killed; None: none was.
    """

    input: str
    run: str
    servers: int
    files: dict[str, int]
    documents: dict[str, int]
    seconds: dict[str, float]
    tiers: list[TierReading]
    states_read: int
    states_written: int
    write_p50_ms: float | None
    write_p95_ms: float | None
    writes: WriteReading
    runs: RunsReading
    swarms: list[SwarmReport]
    malformed: list[Malformed]
    collisions: list[Collision]
    remarks: list[str]
    kill: KillReport | None = None

    @property
    def equal(self) -> int:
        """Swarms that equal the replay."""
        return sum(not swarm.differences for swarm in self.swarms)

    @property
    def passed(self) -> bool:
        """Every swarm equals the replay, and a kill cost nothing that was acknowledged."""
        return self.equal == len(self.swarms) and (self.kill is None or self.kill.is_whole)


def build_report(
    *, root: str, servers: int, corpus: Corpus, stock: Stock, runner: Runner, seconds: dict[str, float]
) -> Report:
    """Put together what a run found.

    Args:
        root: the input directory.
        servers: number of servers that took the steps.
        corpus: what was read of it.
        stock: what was loaded.
        runner: after its run.
        seconds: spent, by phase.
    """
    tally = runner.tally
    documents = stock.sizes
    return Report(
        input=root,
        run=runner.run,
        servers=servers,
        files=corpus.files,
        documents=documents,
        seconds=seconds,
        tiers=read_tiers(tally.reads),
        states_read=len(tally.reads),
        states_written=sum(documents.values()) + len(tally.writes),
        write_p50_ms=milliseconds(tally.writes, 0.50),
        write_p95_ms=milliseconds(tally.writes, 0.95),
        writes=read_writes(tally.behind, len(tally.writes)),
        runs=read_runs(tally.executions),
        swarms=[_swarm(cast, tally) for cast in stock.casts],
        malformed=[_malformed(fault) for fault in (*corpus.faults, *stock.faults)],
        collisions=corpus.collisions,
        remarks=corpus.remarks,
        kill=None if runner.killing is None else runner.killing.report(),
    )


def _swarm(cast: Cast, tally: Tally) -> SwarmReport:
    scenario = cast.scenario
    return SwarmReport(
        name=cast.swarm,
        source=scenario.source,
        shape=scenario.shape,
        steps=len(scenario.steps),
        servers=tally.hands[cast.swarm],
        differences=tally.differences[cast.swarm],
        conditions=judge(scenario, replay(scenario)),
        oddities=list(scenario.oddities),
    )


def _malformed(fault: InputFileError) -> Malformed:
    return Malformed(fault.path, fault.reason, fault.line, fault.place)
