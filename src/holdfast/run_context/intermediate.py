"""The intermediate results of a run's context, as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from holdfast.documents import ContextChange, FreeValue
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.tracked import TrackedState


class Intermediate(MutableMapping[str, FreeValue]):
    """Name to value of results that no later run needs; values are frozen when they come in."""

    __slots__ = ("_clock", "_tracked")

    def __init__(self, tracked: TrackedState, clock: HybridClock) -> None:
        self._tracked = tracked
        self._clock = clock

    def __getitem__(self, key: str) -> FreeValue:
        return self._tracked.draft.intermediate[key]

    def __setitem__(self, key: str, value: FreeValue) -> None:
        self._tracked.write(ContextChange(at=self._clock.now().as_datetime(), intermediate={key: value}))

    def __delitem__(self, key: str) -> None:
        if key not in self._tracked.draft.intermediate:
            raise KeyError(key)
        self._tracked.write(ContextChange(at=self._clock.now().as_datetime(), removed_intermediate=[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tracked.draft.intermediate)

    def __len__(self) -> int:
        return len(self._tracked.draft.intermediate)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} results)"
