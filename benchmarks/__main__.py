"""`python -m benchmarks`: run, write the report, and end 1 if a limit is missed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from benchmarks import feed, l1_get, l1_peek, l2_away, l2_reads, l3_reads, pruning, report, runs, upserts, write_behind
from benchmarks.context import Context, open_context
from benchmarks.measuring import Figure, Result
from holdfast.cli import run as run_loop
from holdfast.errors import HoldfastError

BENCHMARKS: Final[Mapping[str, Callable[[Context], Awaitable[Sequence[Result | Figure]]]]] = {
    "l1-get": l1_get.run,
    "l1-peek": l1_peek.run,
    "l2-reads": l2_reads.run,
    "l3-reads": l3_reads.run,
    "l2-away": l2_away.run,
    "upserts": upserts.run,
    "feed": feed.run,
    "write-behind": write_behind.run,
    "pruning": pruning.run,
    "runs": runs.run,
}


def main() -> int:
    """Run the chosen benchmarks; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAME",
        help=f"run those whose name begins with this ({', '.join(BENCHMARKS)}); the report is not written",
    )
    only = parser.parse_args().only or ""
    chosen = [name for name in BENCHMARKS if name.startswith(only)]
    if not chosen:
        parser.error(f"--only {only}: there are {', '.join(BENCHMARKS)}")
    try:
        return run_loop(_run(chosen))
    except HoldfastError as fault:
        print(f"benchmarks: {fault}", file=sys.stderr)
        return 2


async def _run(chosen: list[str]) -> int:
    load, begun = os.getloadavg(), time.monotonic()
    results: list[Result | Figure] = []
    async with open_context() as context:
        for name in chosen:
            found = await BENCHMARKS[name](context)
            results += found
            print(*map(report.line, found), sep="\n", flush=True)
        if len(chosen) == len(BENCHMARKS):
            report.PAGE.write_text(await report.page(context, results, load), encoding="utf-8")
            print(f"written: {report.PAGE.relative_to(report.PAGE.parents[2])}")
    missed = [result for result in results if not result.kept]
    print(f"{len(results) - len(missed)} of {len(results)} kept, in {time.monotonic() - begun:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
