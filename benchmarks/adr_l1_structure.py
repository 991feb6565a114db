"""The figures of docs/adr/0003: `python -m benchmarks.adr_l1_structure [TRACE ...]`.

A trace is a text file, gzipped or not, with one key a line, in the order of the accesses.
"""

from __future__ import annotations

import gzip
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.adr_l1_candidates import Build, candidates
from benchmarks.measuring import ROUNDS, steady_collector

ENTRIES: Final = 1000
TTL_SECONDS: Final = 300.0
GETS: Final = 200_000
PUTS: Final = 100_000
ZIPF: Final = 1.0
SIZES: Final = (500, 1000, 2000)
"""Of the three caches: runs, swarms, configurations."""


def main() -> None:
    """Print one table of times and one for each trace."""
    print(
        f"nanoseconds, {ENTRIES} entries: a hit (ids by Zipf's law), a new id that evicts another; lowest and highest"
    )
    builds = list(candidates())
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, _ in builds}
    with steady_collector():
        for number in range(ROUNDS + 1):
            for name, build in builds if number % 2 else reversed(builds):
                hit, evicted = _time(build)
                times[name][0].append(hit)
                times[name][1].append(evicted)
    for name, (hits, evictions) in times.items():
        print(f"| {name} | {_spread(hits[1:])} | {_spread(evictions[1:])} |")
    for path in map(Path, sys.argv[1:]):
        _replay(path.name, _keys(path), builds)


def _time(build: Build) -> tuple[float, float]:
    """Nanoseconds of a hit and of an insertion with eviction; the loop is part of them."""
    get, put = build(ENTRIES, TTL_SECONDS, time.monotonic)
    ids = [f"swarm-{number:06d}" for number in range(ENTRIES)]
    for identifier in ids:
        put(identifier, identifier)
    weights = [1 / (rank + 1) ** ZIPF for rank in range(ENTRIES)]
    order = random.Random(1).choices(ids, weights, k=GETS)
    begun = time.perf_counter()
    for identifier in order:
        get(identifier)
    hit = (time.perf_counter() - begun) / GETS
    assert get(order[-1]) == order[-1], "what was put is not there"
    strangers = [f"other-{number:06d}" for number in range(PUTS)]
    begun = time.perf_counter()
    for identifier in strangers:
        put(identifier, identifier)
    evicted = (time.perf_counter() - begun) / PUTS
    assert get(ids[0]) is None, "nothing was evicted"
    return hit * 1e9, evicted * 1e9


def _replay(name: str, keys: Sequence[str], builds: Sequence[tuple[str, Build]]) -> None:
    print(f"\n{name}: {len(keys):,} accesses to {len(set(keys)):,} keys; hits in percent at {SIZES} entries")
    for label, build in builds:
        shares = [f"{_hits(build, size, keys) / len(keys) * 100:.1f}" for size in SIZES]
        print(f"| {label} | {' | '.join(shares)} |")


def _hits(build: Build, entries_max: int, keys: Sequence[str]) -> int:
    """Hits of a cache that is filled on each miss; nothing expires."""
    get, put = build(entries_max, 1e6, lambda: 0.0)
    hits = 0
    for key in keys:
        if get(key) is None:
            put(key, key)
        else:
            hits += 1
    return hits


def _keys(path: Path) -> list[str]:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split()


def _spread(nanoseconds: Sequence[float]) -> str:
    return f"{statistics.median(nanoseconds):.0f} ({min(nanoseconds):.0f} to {max(nanoseconds):.0f})"


if __name__ == "__main__":
    main()
