"""A scenario's swarm taken through its steps before anything is written: whether each can be stored. Pure.

To encode the whole swarm after every update would cost the square of the number of steps. An update is encoded by
itself instead: what it puts into the swarm is checked, and its size bounds the swarm's growth. The swarm as a whole
is encoded only where that bound is over the limit.
"""

from __future__ import annotations

from datetime import datetime

from holdfast.cli.demo.files import InputFileError
from holdfast.cli.demo.scenario import Scenario, Step
from holdfast.cli.demo.swarms import DEMO, with_change, with_step_noted
from holdfast.documents import Limits, Swarm, encode
from holdfast.errors import InvalidDocument

REWRITTEN_BYTES_MAX = 1 << 31
"""Of all updates of a swarm together: each rewrites the whole document, so the cost is the square of its growth."""

_COUNTERS_BYTES = 24  # more than the digits that a step adds to counters and times
_EMPTY_BYTES = len(encode(Swarm()))


def rehearse(identifier: str, scenario: Scenario, swarm: Swarm, limits: Limits, at: datetime) -> None:
    """Take every step on the swarm.

    Args:
        identifier: the swarm's id.
        scenario: with the steps.
        swarm: before the first.
        limits: of documents.
        at: when the run began.

    Raises:
        InputFileError: after an update the swarm could not be stored, or all of them are too much; says where.
    """
    rehearsal = _Rehearsal(identifier, swarm, limits, at)
    for step in scenario.steps:
        try:
            rehearsal.take(step)
        except InvalidDocument as error:
            place = f"after step {step.number}, {error.path or 'document'}"
            raise InputFileError(scenario.source, error.reason, place=place) from error
        if rehearsal.rewritten > REWRITTEN_BYTES_MAX:
            raise InputFileError(
                scenario.source,
                f"each update rewrites the whole swarm: up to step {step.number} of {len(scenario.steps)} that makes "
                f"{rehearsal.rewritten} bytes; at most {REWRITTEN_BYTES_MAX}",
            )


class _Rehearsal:
    """A swarm on its way through the steps.

    Attributes:
        rewritten: bytes of the swarm after each update, added up; not fewer than there are.
    """

    def __init__(self, identifier: str, swarm: Swarm, limits: Limits, at: datetime) -> None:
        self.rewritten = 0
        self._identifier = identifier
        self._swarm = swarm
        self._limits = limits
        self._at = at
        self._size = len(encode(swarm, limits))
        self._items: dict[str, int] = {}

    def take(self, step: Step) -> None:
        """Make the updates of a step, as a server does."""
        for change in step.changes:
            self._swarm = with_change(self._swarm, change, self._at)
            size = self._checked(Swarm(blackboard=[each for each in self._swarm.blackboard if each.id == change.item]))
            self._grow(size - self._items.get(change.item, 0))
            self._items[change.item] = size
        before = self._swarm
        self._swarm = swarm = with_step_noted(before, self._identifier, step, self._at)
        noted = Swarm(
            records=swarm.records[len(before.records) :],
            execution=swarm.execution,
            metadata={DEMO: {"noted": list(step.events)}},
        )
        replaced = self._checked(Swarm(execution=before.execution))
        self._grow(self._checked(noted) - replaced + _COUNTERS_BYTES)

    def _checked(self, part: Swarm) -> int:
        """Bytes that the part has in the swarm; refuses what cannot be stored."""
        try:
            return len(encode(part, self._limits)) - _EMPTY_BYTES
        except InvalidDocument:
            encode(self._swarm, self._limits)  # refuses it too, and knows its place in the whole
            raise

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > self._limits.bytes_max:
            self._size = len(encode(self._swarm, self._limits))
        self.rewritten += self._size
