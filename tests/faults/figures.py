"""Figures of the fault matrix: kept as files by the tests, shown as a table, and written into the page of proofs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

LEVELS: Final = ("committed", "journaled", "accepted")
FOLDER_VARIABLE: Final = "FAULT_FIGURES"
"""Names the folder for the files; without it none are kept."""
BEGIN: Final = "<!-- faults: begin -->"
END: Final = "<!-- faults: end -->"
COLUMNS: Final = (
    "fault",
    "lasted",
    "calls",
    "errors of callers",
    "oldest answer",
    "labelled stale (oldest)",
    f"lost: {', '.join(LEVELS)}",
    "longest call",
    "warm p95, otherwise and meanwhile",
    "mode shown after",
    "normal after",
)


class Figures(msgspec.Struct, kw_only=True):
    """What one run of a cell came to; times in seconds.

    Attributes:
        fault_seconds: how long the fault lasted.
        calls, calls_during: all, and those begun while it lasted or until all was normal.
        errors: of callers, by what was called and the error's type; `errors_outside`: those of them of other times.
        said: what the last error of each type said at other times.
        oldest_seconds: by how much the oldest answer without a label was behind what was known to be committed.
        labelled: answers that said they may be stale; `oldest_labelled_seconds`: by how much the oldest was behind.
        acknowledged, lost: writes, by durability.
        unwritten: writes that were given up at the end.
        longest_seconds: the longest call, by what was called.
        warm_p95_seconds: of reads of what is in memory, at other times and while the fault lasted.
        normal_after_seconds: from the fault's end.
        late_seconds: by how much the process of the servers came to itself later than it wanted, at most.
        modes: that servers said they work in, but `normal`; `mode_after_seconds`: from the fault's begin until every
            server had shown the one that is expected; None: it did not, or none is.
        unrecorded: faults that the recovery log does not tell of.
        violations: of the history checker, in words.
    """

    cell: str
    layer: str
    fault_seconds: float
    calls: int
    calls_during: int
    errors: dict[str, int]
    errors_outside: dict[str, int]
    said: dict[str, str]
    oldest_seconds: float
    bound_seconds: float
    labelled: int
    oldest_labelled_seconds: float
    acknowledged: dict[str, int]
    lost: dict[str, int]
    unwritten: int
    longest_seconds: dict[str, float]
    warm_p95_seconds: tuple[float, float]
    normal_after_seconds: float
    modes: list[str]
    late_seconds: float = 0.0
    unrecorded: list[str] = []
    mode_after_seconds: float | None
    violations: list[str]


class Skipped(msgspec.Struct):
    """A cell that could not be tried here."""

    cell: str
    layer: str
    reason: str


def keep(figures: Figures | Skipped) -> None:
    """Write a file for the cell into the folder that is asked for, in place of an earlier one."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        file = Path(folder) / f"{figures.cell}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def kept(folder: Path) -> list[Figures | Skipped]:
    """What is kept, by layer and name."""
    found: list[Figures | Skipped] = []
    for file in folder.glob("*.json"):
        content = file.read_bytes()
        skipped = "reason" in msgspec.json.decode(content)
        found.append(msgspec.json.decode(content, type=Skipped if skipped else Figures))
    return sorted(found, key=lambda each: (each.layer, each.cell))


def table(rows: Iterable[Figures | Skipped]) -> str:
    """A table in Markdown."""
    return "\n".join([_joined(COLUMNS), "|---" * len(COLUMNS) + "|", *(_joined(_cells(each)) for each in rows)])


def written(page: str, content: str) -> str:
    """The page with other content between its marks.

    Raises:
        ValueError: it has not both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no place for the figures: put the lines {BEGIN} and {END} into it")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def _cells(each: Figures | Skipped) -> Sequence[str]:
    if isinstance(each, Skipped):
        return [each.cell, f"skipped: {each.reason}", *[""] * (len(COLUMNS) - 2)]
    what, longest = max(each.longest_seconds.items(), key=lambda item: item[1])
    errors = ", ".join(f"{number} {name}" for name, number in sorted(_joined_errors(each).items())) or "none"
    labelled = f"{each.labelled} ({each.oldest_labelled_seconds:.1f} s)" if each.labelled else "none"
    lost = ", ".join(
        f"{each.lost[name]} of {each.acknowledged[name]}" for name in ("committed", "journaled", "accepted")
    )
    modes = ", ".join(each.modes) or "normal"
    shown = modes if each.mode_after_seconds is None else f"{each.mode_after_seconds:.2f} s ({modes})"
    return (
        each.cell,
        f"{each.fault_seconds:g} s",
        str(each.calls_during),
        errors,
        f"{each.oldest_seconds * 1000:.0f} ms",
        labelled,
        lost,
        f"{longest:.2f} s ({what})",
        " and ".join(map(_milliseconds, each.warm_p95_seconds)),
        shown,
        f"{each.normal_after_seconds:.1f} s",
    )


def _joined(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined_errors(each: Figures) -> Counter[str]:
    """The errors by read, put or patch, and their type."""
    errors = Counter[str]()
    for name, number in each.errors.items():
        what, *_, fault = name.split()
        errors[f"{what} {fault}"] += number
    return errors


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.{2 if seconds < 0.01 else 0}f} ms"
