"""A context's state while its owner changes it: within its limits, and with what is to be stored of it (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from holdfast.documents import ContextChange, StepRecord
from holdfast.documents.frozen import seal_list
from holdfast.run_context.changes import Collected, ContextState, Draft, combined, name_bytes
from holdfast.run_context.limits import RunLimits, Sizes


class TrackedState:
    """A draft that knows its size, and what changed since it was last asked.

    Attributes:
        draft: as it is now; to be read.
    """

    __slots__ = ("_bytes", "_collected", "_limits", "_measured_sizes", "_run_id", "_state", "draft")

    def __init__(self, run_id: str, state: ContextState, limits: RunLimits) -> None:
        """Go on with a state; also with one that is over a limit: it cannot grow, but it is not lost."""
        self.draft = Draft(state)
        self._run_id = run_id
        self._limits = limits
        self._collected: Collected | None = None
        self._state: ContextState | None = state
        self._measured_sizes: Sizes | None = None
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Of all it holds, as JSON."""
        self._sizes()
        return self._bytes

    def _sizes(self, *, is_held: bool = True) -> Sizes:
        """Of all it holds; measured when it is first asked for: to read a context that was resumed takes none of it."""
        if self._measured_sizes is None:
            draft = self.draft
            sizes = self._measured(draft, seal_list(list(draft.steps.values())), is_held=is_held)
            self._bytes = sum(sizes.values()) + self._limits.measured(draft.inputs, is_held=is_held)
            self._measured_sizes = sizes  # last: after a fault they are not known
        return self._measured_sizes

    def check(self) -> None:
        """Refuse a state to begin with that is over a limit.

        Raises:
            InvalidDocument: it holds what cannot be stored.
            LimitExceeded: it is.
        """
        self._sizes(is_held=False)
        self._limits.check(self._run_id, "variables", len(self.draft.variables))
        self._limits.check(self._run_id, "bytes", self.bytes)

    def state(self, status: str) -> ContextState:
        """All of it, to be shared; made anew after a change, at the cost of what it holds."""
        self.draft.status = status
        if self._state is None or self._state.status != status:
            self._state = self.draft.state()
        return self._state

    def write(self, change: ContextChange) -> None:
        """Make a change; costs what it holds.

        The names of what was removed are to be stored too, so they count until they are taken; each has fewer bytes
        than what it was the name of, so no removal is refused.

        Raises:
            InvalidDocument: it holds what cannot be stored; `path` says where.
            LimitExceeded: the context would be over a limit, and larger than it is.
        """
        sizes, held = self._measured(change, change.steps), self._sizes()
        gone = [place for place in _removed(change) if place in held]
        left = sum(map(held.__getitem__, dict.fromkeys((*gone, *(sizes.keys() & held.keys())))))
        size = self.bytes - left + sum(sizes.values())
        names = sum(name_bytes(key) for _, key in gone)
        if size + names > self.bytes:
            before = 0 if self._collected is None else self._collected.removed_bytes
            self._limits.check(self._run_id, "bytes", size + names + before)
        new = sum(key not in self.draft.variables for key in change.variables)
        if new:
            self._limits.check(self._run_id, "variables", len(self.draft.variables) + new)
        for place in gone:
            held.pop(place, None)
        held.update(sizes)
        self._bytes = size
        self._collect(change, self.draft)
        self.draft.apply(change)
        self._state = None

    def take(self, *, snapshot: bool) -> ContextChange | None:
        """What changed since the last time; None: nothing. With `snapshot`, a change that asks for one in any case."""
        if self._collected is None and not snapshot:
            return None
        change = combined(()) if self._collected is None else self._collected.change()
        self._collected = None
        return msgspec.structs.replace(change, snapshot=True) if snapshot else change

    def put_back(self, change: ContextChange) -> None:
        """Collect a change again that was taken and could not be stored, before what was written since."""
        since, self._collected = self._collected, None
        self._collect(change)
        if since is not None:
            self._collect(since.change())

    def _collect(self, change: ContextChange, before: Draft | None = None) -> None:
        if self._collected is None:
            self._collected = Collected()
        self._collected.add(change, before)

    def _measured(self, part: Draft | ContextChange, steps: Sequence[StepRecord], *, is_held: bool = False) -> Sizes:
        sections = {name: getattr(part, name) for name in _MEASURED}
        sizes = self._limits.sizes(steps=steps, is_held=is_held, **sections)
        if part.current_step is not None:
            sizes["current_step", ""] = len(msgspec.json.encode(part.current_step))
        return sizes


_SECTIONS = ("variables", "intermediate", "exports")
_MEASURED = (*_SECTIONS, "strategies")


def _removed(change: ContextChange) -> Iterator[tuple[str, str]]:
    for name in _SECTIONS:
        removed: Any = getattr(change, f"removed_{name}")
        yield from ((name, key) for key in removed)
