"""What the demo says while it works: bars on a terminal, one line for each finished phase in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class Phases:
    """Shows phases, and keeps how long each took.

    Args:
        console: where to.
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._clock = clock

    @contextmanager
    def phase(self, name: str, what: str, total: int) -> Iterator[Advance]:
        """Show a phase of `total` parts; call what this gives with the number of parts just done.

        Args:
            name: short, for the timings.
            what: in words, as "loading 12 documents".
            total: number of parts.
        """
        begun = self._clock()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        shown = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not shown) as bar:
            task = bar.add_task(what, total=total)
            yield lambda parts: bar.advance(task, parts)
        self.seconds[name] = self._clock() - begun
        self._console.print(
            f"{what}: done in {self.seconds[name]:.1f} s", markup=False, highlight=False, soft_wrap=True
        )
