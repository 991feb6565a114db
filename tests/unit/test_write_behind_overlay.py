"""What undecided writes make of a committed value, and of which."""

from __future__ import annotations

from typing import Any

from fix_undecided import B1, pending
from holdfast import Bot, Delete, Set
from holdfast.entry import MISSING
from holdfast.tiers.l1_local import Laid
from holdfast.write_behind.buffer import Buffer, BufferRules
from holdfast.write_behind.operations import Increment, Operation
from holdfast.write_behind.overlay import NOTHING, Overlay
from holdfast.write_behind.receipts import PendingWrite

BASE = Bot(name="base", max_tokens=1)
ADD = Increment("max_tokens")


class Stage:
    """An overlay over a buffer."""

    def __init__(self, *writes: tuple[Operation, ...]) -> None:
        self.buffer = Buffer(BufferRules())
        self.laid: dict[str, Laid] = {}
        self.overlay = Overlay(self.buffer, {"bot": self.laid})
        self.writes: list[PendingWrite] = []
        for seq, operations in enumerate(writes, 1):
            self.writes.append(pending(seq, *operations))
            self.buffer.add(self.writes[-1])

    def over(self, value: Any, version: int = 5) -> Any:
        """What is shown."""
        return self.overlay.over(B1, value, version)


def test_without_undecided_writes_the_value_itself_is_shown() -> None:
    """Not a copy."""
    assert Stage().over(BASE) is BASE


def test_writes_are_laid_over_in_their_order() -> None:
    """And once: the same value gives the same document again."""
    stage = Stage((ADD,), (Set("name", "new"),), (ADD, ADD))
    shown = stage.over(BASE)
    assert shown == Bot(name="new", max_tokens=4)
    assert stage.over(BASE) is shown
    assert stage.laid["b1"] == (BASE, shown)
    assert stage.over(Bot(name="other", max_tokens=7)) == Bot(name="new", max_tokens=10)


def test_a_stamped_write_is_laid_over_lower_versions_only() -> None:
    """From its commit on, the row of that version holds it (rule W7)."""
    stage = Stage((ADD,), (ADD,))
    stage.writes[0].stamp = 6
    stage.overlay.changed(B1)
    assert stage.over(BASE, 5).max_tokens == 3
    stage.overlay.changed(B1)
    assert stage.over(BASE, 6).max_tokens == 2
    assert stage.over(Bot(name="x", max_tokens=1), 7).max_tokens == 2


def test_after_a_change_l1_sends_readers_the_long_way() -> None:
    """What lay over its value may not any more; when nothing is undecided, its value counts by itself."""
    stage = Stage((ADD,), (ADD,))
    stage.over(BASE)
    stage.overlay.changed(B1)
    assert stage.laid["b1"] is NOTHING
    stage.buffer.decided(B1, stage.writes)
    stage.overlay.changed(B1)
    assert stage.laid == {}


def test_deletions_and_what_cannot_be_applied() -> None:
    """A deleted row is missing; what does not fit is left out, since it will be refused."""
    stage = Stage((Delete(),), (ADD,))
    assert stage.over(BASE) is MISSING
    stage = Stage((ADD,), (Set(Bot(name="whole")),))
    assert stage.over(MISSING) == Bot(name="whole")
    stage = Stage((ADD,))
    assert stage.over(Bot(name="no number")) == Bot(name="no number")
