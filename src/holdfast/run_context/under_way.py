"""Which runs are under way on this server (pure)."""

from __future__ import annotations


class UnderWay:
    """Ids of runs that were begun or resumed here, until they are over here; one per server."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._epochs

    def note(self, run_id: str, epoch: int) -> None:
        """It was begun, or resumed, under this epoch."""
        self._epochs[run_id] = epoch

    def forget(self, run_id: str, epoch: int) -> None:
        """It is over here; under a later epoch it may be under way still."""
        if self._epochs.get(run_id) == epoch:
            del self._epochs[run_id]
