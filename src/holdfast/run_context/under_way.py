"""Which runs are under way on this server (pure)."""

from __future__ import annotations

from collections.abc import Callable


class UnderWay:
    """Runs that were begun or resumed here, until they are over here; one per server."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, Callable[[], None]]] = {}

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._runs

    def note(self, run_id: str, epoch: int, look: Callable[[], None]) -> None:
        """It was begun, or resumed, under this epoch; `look` has it look at its row."""
        self._runs[run_id] = epoch, look

    def forget(self, run_id: str, epoch: int) -> None:
        """It is over here; under a later epoch it may be under way still."""
        if run_id in self._runs and self._runs[run_id][0] == epoch:
            del self._runs[run_id]

    def changed(self, run_id: str) -> None:
        """Its row was changed, maybe by another server; empty: any."""
        for each in [run_id] if run_id else list(self._runs):
            if each in self._runs:
                self._runs[each][1]()
