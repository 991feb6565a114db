"""The report: docs/reference/performance.md."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.context import Context
from benchmarks.measuring import ROUNDS, Figure, Result

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "performance.md"
LIBRARIES: Final = ("asyncpg", "cashews", "isal", "msgspec", "uvloop", "valkey-glide")

METHOD: Final = f"""\
Each figure is a ratio of two ways to do the same thing, timed in turns in one process: ours, theirs,
theirs, ours, and so on, one round that does not count and {ROUNDS} that do. A round's ratio is made from
its own two times; the median of the rounds decides, the lowest and the highest are beside it. "At least" is
our operations per second over theirs, "at most" our time over theirs. All servers share this machine's
cores with the client. The garbage collector is on for both sides; what exists when a comparison begins is
exempt from it. Documents come from fixed seeds: a bot of 0.2 KB, swarms of 1.7, 2 and 6 KB.
"""

NOTES: Final = """\
- **L1.** Both caches hold the same objects, with a TTL. The time includes the loop and, awaited, the
  coroutine.
- **L2.** 64 tasks, each awaiting one key after the other, none shared. Ours is what the resolver does up to
  the bytes that L3 stored: batching, one script a node, header, checksum, incarnation and generations
  checked, TTL read. Theirs is one `GET` a key of the same stored bytes, nothing checked. Entries above 1 KB
  are gzipped: ours are unpacked, theirs are not. The rows "to the document" go on to what a caller of `get`
  receives, decoded, frozen and put into L1; theirs still stops at the bytes.
- **L3 reads.** 100 random ids of 1000 a query, one caller. Ours also reads incarnation and generations in
  the same query.
- **L2 dead.** A server whose L2 was killed, with all else as it was. A cold read is of a document that memory does
  not hold, to the document; theirs is one row by its id over one of 20 held connections, not decoded. One caller alone
  pays for all of a batch: its queries, its checks and its turns of the event loop.
- **Upserts.** 1000 rows a call, all of which exist. The bare table has the same columns, constraints and
  index, no trigger, and gets its JSON ready made. The tier draws versions by trigger and returns them. The
  door also encodes and checks each document and fills L1, while the relay fences L2 on all nodes. Both tables
  are vacuumed before each round. A single write is one row a statement: by the same statement of asyncpg into
  the managed table, while a server follows the feed, and through the tier.
- **The change feed.** Two servers in one process; from the return of `put` on one to the first default `get` on the
  other that answers with it, which asks without a pause. These are times, not ratios, so a busy machine shows in them.
- **Runs.** A run of 1,700 steps, each of which changes 1.6 KB: two variables of 0.2 KB, with all that is known of
  them, a record, and a page of 0.1 KB or, every tenth time, 5 KB. Its last checkpoints are made in turns with the
  first of another run. Bytes are those of changes as JSON; documents are deltas, bases and the run's row, each time
  it was written. A resume is a takeover from a live server: its entries are decided, the epoch is raised in a
  transaction, then the snapshots are read, verified and applied; theirs reads the same rows and does nothing with
  them. A context restored is the reading, verifying and applying alone; theirs parses the rows too.
"""

NOT_COVERED: Final = """\
- A network: servers and client are on one machine, so round trips cost what waking a process costs.
- TLS, replicas, several servers at once, more than one thread of callers.
- Latency percentiles of reads: `make demo` prints those of each tier for real work.
- Cold caches of PostgreSQL: all rows are in its memory.
"""


async def page(context: Context, found: Sequence[Result | Figure], load: tuple[float, float, float]) -> str:
    """The report as Markdown.

    Args:
        load: the machine's load averages before the run.
    """
    results = [each for each in found if isinstance(each, Result)]
    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench`, which fails when a limit is missed. One of them: `make bench ARGS='--only l1'`.",
            "",
            METHOD,
            *_ratios(results),
            "",
            *_absolute([each for each in found if isinstance(each, Figure)]),
            "",
            *_figures(results),
            "",
            "## What is compared",
            "",
            NOTES,
            "## Not measured",
            "",
            NOT_COVERED,
            "## Machine",
            "",
            *await _machine(context, load),
            "",
        ]
    )


def line(result: Result | Figure) -> str:
    """One result for the terminal."""
    if isinstance(result, Figure):
        return f"{result.name:50} {_amount(result)}, limit {result.most:g} {result.unit}: {_verdict(result)}"
    ratio, times = result.limit.shown(result.ratio), result.times
    each = f"{times.ours * 1e6:.3g} us against {times.theirs * 1e6:.3g}"
    return f"{result.name:38} {ratio:>6} ({_spread(result)}; {each}), limit {result.limit}: {_verdict(result)}"


def _spread(result: Result) -> str:
    return f"{result.limit.shown(min(result.ratios))} to {result.limit.shown(max(result.ratios))}"


def _verdict(result: Result | Figure) -> str:
    if isinstance(result, Result) and result.limit.sense == "none":
        return "shown only"
    return "kept" if result.kept else "MISSED"


def _ratios(results: Sequence[Result]) -> list[str]:
    rows = ["| | ratio | lowest and highest round | limit | |", "|---|---|---|---|---|"]
    for each in results:
        ratio = each.limit.shown(each.ratio)
        rows.append(f"| {each.name} | **{ratio}** | {_spread(each)} | {each.limit} | {_verdict(each)} |")
    return rows


def _absolute(figures: Sequence[Figure]) -> list[str]:
    rows = ["| times and amounts | | at most | |", "|---|---|---|---|"]
    for each in figures:
        rows += [f"| {each.name} | **{_amount(each)}** | {each.most:g} {each.unit} | {_verdict(each)} |"]
    return rows


def _amount(figure: Figure) -> str:
    return f"{figure.value:.3g} {figure.unit}"


def _figures(results: Sequence[Result]) -> list[str]:
    rows = ["| | ours | a second | us each | theirs | a second | us each |", "|---|---|---|---|---|---|---|"]
    for each in results:
        ours, theirs = (f"{1 / side:,.0f} {each.operation} | {side * 1e6:,.3g}" for side in _sides(each))
        rows.append(f"| {each.name} | {each.ours} | {ours} | {each.theirs} | {theirs} |")
    return rows


def _sides(result: Result) -> tuple[float, float]:
    return result.times.ours, result.times.theirs


async def _machine(context: Context, load: tuple[float, float, float]) -> list[str]:
    postgres = await context.postgres.fetchval("SHOW server_version")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return [
        f"- {os.cpu_count()} cores, {platform.machine()}, {platform.system()}; load before the run {load[0]:.2f}",
        f"- Python {platform.python_version()}; {versions}",
        f"- PostgreSQL {postgres}; Valkey {await context.valkey_version()}, {await context.primaries()} primaries",
    ]
