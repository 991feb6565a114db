"""What the demo says while it works: bars on a terminal, a line now and then and for each finished phase in a pipe."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]

LINE_SECONDS = 10.0
BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE


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
        shown = self._console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not shown) as bar:
            task = bar.add_task(what, total=total)
            yield (lambda parts: bar.advance(task, parts)) if shown else self._spoken(what, total, begun)
        self.seconds[name] = self._clock() - begun
        self._say(f"{what}: done in {self.seconds[name]:.1f} s")

    def _spoken(self, what: str, total: int, begun: float) -> Advance:
        """Says in a line, not more often than every `LINE_SECONDS`, how far a long phase is."""
        done, said = 0, begun

        def advance(parts: int) -> None:
            nonlocal done, said
            done += parts
            if (now := self._clock()) - said >= LINE_SECONDS and done < total:
                said = now
                self._say(f"{what}: {done} of {total} after {now - begun:.0f} s")

        return advance

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Output(Console):
    """Standard output. When its reader goes, as `head` does, the command ends as one that the signal ended."""

    def on_broken_pipe(self) -> None:
        """End with status 141; nothing more is written."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(BROKEN_PIPE_STATUS) from None
