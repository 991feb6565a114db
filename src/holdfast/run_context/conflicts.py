"""When two sides have changed one value: which of them stands, and why (pure).

The sides are called parent and child. In a run they are those; at a flush the committed value is the parent, and the
one that was accepted before and comes to be written now the child.
"""

from __future__ import annotations

import datetime as dt
import enum

import msgspec

from holdfast.documents import FreeValue, FrozenDict, freeze
from holdfast.documents.frozen import seal_dict
from holdfast.entry import MISSING
from holdfast.run_context.hybrid_clock import HybridTime


class ConflictStrategy(enum.Enum):
    """How a conflict is resolved; always to the same result, on every server."""

    PARENT_WINS = "parent_wins"
    """The parent's value stands: what is committed."""
    CHILD_WINS = "child_wins"
    """The child's value stands: what was written later here, though it had not seen the other."""
    MERGE_OBJECTS = "merge_objects"
    """Two mappings become one; other values as `PARENT_WINS`."""
    KEEP_LATEST = "keep_latest"
    """The value with the later hybrid logical clock stands; without two clocks the parent's, since L3 ordered it."""
    MANUAL_REVIEW = "manual_review"
    """The parent's value stands until a person has decided."""


class Side(msgspec.Struct, frozen=True):
    """One of two values.

    Attributes:
        value: frozen; `MISSING`: there is none.
        clock: of its write; None: it has none.
    """

    value: FreeValue
    clock: HybridTime | None = None


class Resolution(msgspec.Struct, frozen=True):
    """What became of a conflict.

    Attributes:
        value: the one that stands; where it is one side's, the very object.
        reason: in words.
        needs_review: a person is to look at it.
        variable_name: of the variable that the conflict was about; None: it was about none.
        skewed: a clock that decided is further ahead of this server's than clocks may differ: it may be wrong.
    """

    value: FreeValue
    strategy: ConflictStrategy
    reason: str
    needs_review: bool = False
    variable_name: str | None = None
    skewed: bool = False


class VariableConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A variable that a parent and its child have both changed.

    Attributes:
        parent_value, child_value: what it is on either side; `MISSING`: it has none there.
        parent_timestamp, child_timestamp: of its last change there.
        parent_clock, child_clock: of its last change there; with both, the timestamps do not count.
        ancestor: what both began from, if it is known; only `MERGE_OBJECTS` asks.
    """

    variable_name: str
    parent_value: FreeValue
    child_value: FreeValue
    parent_timestamp: dt.datetime | None = None
    child_timestamp: dt.datetime | None = None
    strategy: ConflictStrategy = ConflictStrategy.PARENT_WINS
    parent_clock: HybridTime | None = None
    child_clock: HybridTime | None = None
    ancestor: FreeValue = MISSING

    def resolution(self) -> Resolution:
        """Which value stands, and why."""
        parent, child = self._times()
        sides = Side(freeze(self.parent_value), parent), Side(freeze(self.child_value), child)
        found = resolve(self.strategy, *sides, freeze(self.ancestor))
        return msgspec.structs.replace(found, variable_name=self.variable_name)

    def _times(self) -> tuple[HybridTime | None, HybridTime | None]:
        if self.parent_clock is not None and self.child_clock is not None:
            return self.parent_clock, self.child_clock
        return _at(self.parent_timestamp), _at(self.child_timestamp)


def _at(timestamp: dt.datetime | None) -> HybridTime | None:
    return None if timestamp is None else HybridTime(int(timestamp.timestamp() * 1000), 0, "")


def resolve(strategy: ConflictStrategy, parent: Side, child: Side, ancestor: FreeValue = MISSING) -> Resolution:
    """Decide which value stands.

    Args:
        ancestor: what both sides began from, if it is known; only `MERGE_OBJECTS` asks.
    """
    match strategy:
        case ConflictStrategy.PARENT_WINS:
            return Resolution(parent.value, strategy, "the committed value stands")
        case ConflictStrategy.CHILD_WINS:
            return Resolution(child.value, strategy, "the later write stands, whatever it had not seen")
        case ConflictStrategy.MERGE_OBJECTS:
            return _resolve_merging(parent.value, child.value, ancestor)
        case ConflictStrategy.KEEP_LATEST:
            return _resolve_latest(parent, child)
        case ConflictStrategy.MANUAL_REVIEW:
            return Resolution(parent.value, strategy, "it stands until a person decides", needs_review=True)


def _resolve_merging(parent: FreeValue, child: FreeValue, ancestor: FreeValue) -> Resolution:
    if type(parent) is FrozenDict and type(child) is FrozenDict:
        value = merged_objects(parent, child, ancestor)
        return Resolution(value, ConflictStrategy.MERGE_OBJECTS, "both are mappings, and were merged")
    return Resolution(
        parent, ConflictStrategy.MERGE_OBJECTS, "they are not two mappings to merge: the committed value stands"
    )


def _resolve_latest(parent: Side, child: Side) -> Resolution:
    strategy = ConflictStrategy.KEEP_LATEST
    if parent.clock is None or child.clock is None:
        return Resolution(parent.value, strategy, "there are no two clocks: the committed value counts as the later")
    if child.clock > parent.clock:
        return Resolution(child.value, strategy, f"the child's, of {child.clock}, is later than that of {parent.clock}")
    return Resolution(
        parent.value, strategy, f"the child's, of {child.clock}, is not later than that of {parent.clock}"
    )


def merged_objects(parent: FrozenDict, child: FrozenDict, ancestor: FreeValue = MISSING) -> FrozenDict:
    """Two mappings as one, key by key, mappings in both recursively.

    A key that one side alone has changed since the ancestor, or removed, is as that side has it. Where both have
    changed it: two mappings are merged, otherwise the child's value stands; and a value stands against its removal.
    Without an ancestor a key that one side has was added by it, and one that both have was changed by both.
    """
    before = ancestor if type(ancestor) is FrozenDict else {}
    merged = {
        name: _merged_value(parent.get(name, MISSING), child.get(name, MISSING), before.get(name, MISSING))
        for name in {**parent, **child}
    }
    return seal_dict({name: value for name, value in merged.items() if value is not MISSING})


def _merged_value(parent: FreeValue, child: FreeValue, before: FreeValue) -> FreeValue:
    if type(parent) is FrozenDict and type(child) is FrozenDict:
        return merged_objects(parent, child, before)
    if child is MISSING:
        return MISSING if _same(parent, before) else parent
    if parent is MISSING:
        return MISSING if _same(child, before) else child
    return parent if _same(child, before) else child


def _same(value: FreeValue, before: FreeValue) -> bool:
    """Whether a value is the one of before: 1, 1.0 and True are three."""
    return type(value) is type(before) and bool(value == before)
