"""The report in words, for a terminal and for a plain pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from holdfast.cli.demo.killing import KillReport
from holdfast.cli.demo.readings import WriteReading
from holdfast.cli.demo.report import Malformed, Report, SwarmReport
from holdfast.cli.demo.success import Verdict


def print_report(report: Report, console: Console) -> None:
    """Print all of it. Long lines are left to the terminal: a pipe gets them whole."""
    console.print(_tiers(report))
    for block in (
        _figures(report),
        _kill(report.kill),
        _swarms(report),
        _malformed(report),
        _collisions(report),
        _remarks(report),
    ):
        for line in block:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    verdict = f"{report.equal} of {len(report.swarms)} swarms, read by a server with cold caches, equal the replay"
    if report.kill is not None:
        lost = "nothing that was acknowledged was lost" if report.kill.is_whole else "ACKNOWLEDGED WORK WAS LOST"
        verdict += f"; a server was killed, and {lost}"
    style = "bold green" if report.passed else "bold red"
    console.print(verdict, style=style, markup=False, highlight=False, soft_wrap=True)


def _tiers(report: Report) -> Table:
    table = Table(title="Reads by the servers, per tier", title_justify="left")
    table.add_column("tier")
    for name in ("hits", "misses", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right")
    for tier in report.tiers:
        table.add_row(tier.tier.upper(), str(tier.hits), str(tier.misses), _ms(tier.p50_ms), _ms(tier.p95_ms))
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _figures(report: Report) -> Iterator[str]:
    loaded = ", ".join(f"{count} {kind}" for kind, count in report.documents.items())
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in report.seconds.items())
    yield f"States loaded: {loaded}"
    yield f"States read: {report.states_read}; written: {report.states_written}"
    yield f"Writes: p50 {_ms(report.write_p50_ms)} ms, p95 {_ms(report.write_p95_ms)} ms"
    yield from _writes(report.writes)
    yield (
        f"Runs: {report.runs.runs}, one for each scenario and one below it for each step; {report.runs.checkpoints} "
        f"checkpoints, {report.runs.snapshots} snapshots with the bases"
    )
    yield f"Servers: {report.servers}, and a cold one at the end. Time: {spent}"


def _writes(writes: WriteReading) -> Iterator[str]:
    yield (
        f"Write-behind: {writes.accepted} writes accepted, {writes.journaled} journaled, {writes.committed_at_once} "
        f"committed at once; {writes.updated} were no operations, and updates"
    )
    yield (
        f"  brought to L3 by {writes.commits} commits of {writes.writes_per_commit:.1f} writes on average, "
        f"{writes.largest_commit} at most; largest loss window {writes.window_ms:.0f} ms"
    )


def _kill(kill: KillReport | None) -> Iterator[str]:
    if kill is None:
        return
    lost = kill.lost
    yield ""
    yield (
        f"Killed: {kill.server}, with -9, in the middle of step {kill.step} of {kill.swarm}, with "
        f"{kill.acknowledged_writes} of its {kill.writes} writes acknowledged; it had {kill.taken_again} steps in hand"
    )
    yield (
        f"  run {kill.run} was found as orphaned after {kill.found_seconds:.1f} s, one of {len(kill.orphans)}, and "
        f"resumed by {kill.resumed_by} after {kill.resumed_seconds:.1f} s, which found {kill.found_writes} of the "
        f"writes and made {kill.writes - kill.found_writes}"
    )
    yield (
        f"  of {kill.acknowledged_steps} steps acknowledged before, {kill.missing_steps} are missing; the contexts "
        f"lost {lost.steps} steps, {lost.variables} variables, {lost.seconds:.1f} s"
    )


def _swarms(report: Report) -> Iterator[str]:
    for swarm in report.swarms:
        yield ""
        hands = ", ".join(sorted(set(swarm.servers)))
        yield f"{swarm.name} ({swarm.source}; shape {swarm.shape}, {swarm.steps} steps on {hands} in turn)"
        yield from _differences(swarm)
        yield from _conditions(swarm)
        yield from (f"  odd: {odd.place}: {odd.sort}: {odd.says}" for odd in swarm.oddities)


def _differences(swarm: SwarmReport) -> Iterator[str]:
    if not swarm.differences:
        yield "  the cold server's swarm equals the replay: blackboard, records, events and counters"
    yield from (f"  DIFFERS: {difference}" for difference in swarm.differences)


def _conditions(swarm: SwarmReport) -> Iterator[str]:
    if not swarm.conditions:
        yield "  the scenario states no success conditions"
        return
    count = Counter(judgement.verdict for judgement in swarm.conditions)
    yield "  success conditions: " + ", ".join(f"{count[verdict]} {verdict.value}" for verdict in Verdict)
    for judgement in swarm.conditions:
        yield f"    {judgement.verdict.value:<11} {judgement.condition} ({judgement.reason})"


def _malformed(report: Report) -> Iterator[str]:
    yield ""
    yield f"Malformed files, of which nothing was imported: {len(report.malformed)}"
    yield from (f"  {_malformed_line(fault)}" for fault in report.malformed)


def _malformed_line(fault: Malformed) -> str:
    where = f"{fault.path}, line {fault.line}" if fault.line else fault.path
    return f"{where}: {f'{fault.place}: ' if fault.place else ''}{fault.reason}"


def _collisions(report: Report) -> Iterator[str]:
    yield ""
    yield f"Files with an id that an earlier one has, renamed id@path: {len(report.collisions)}"
    for collision in report.collisions:
        yield f"  {collision.id} stays with {collision.kept_by}; another becomes {collision.new_id}"


def _remarks(report: Report) -> Iterator[str]:
    if report.remarks:
        yield ""
        yield f"Remarks on imported files: {len(report.remarks)}"
        yield from (f"  {remark}" for remark in report.remarks)
    yield ""
