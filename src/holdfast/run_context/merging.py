"""How a parent takes over what a child has exported: which variables are in conflict, and what becomes of them (pure).

A conflict is a variable that the parent has written, or removed, since the child inherited it, or that both have made:
its clock in the parent is not the `ancestor` that the child's variable carries. Two values that are identical are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from holdfast.documents import ContextVariable, FreeValue
from holdfast.entry import MISSING
from holdfast.run_context.conflicts import ConflictStrategy, Resolution, Side, resolve
from holdfast.run_context.differences import identical
from holdfast.run_context.hybrid_clock import HybridClock, hybrid_time
from holdfast.run_context.inheriting import ancestor_of, is_inherited
from holdfast.sensitivity.levels import is_secret, strictest


class Strategies(NamedTuple):
    """By which conflicts are resolved.

    Attributes:
        declared: of variables, by key.
        otherwise: of all others: that of the run, else that of the kind.
    """

    declared: Mapping[str, str]
    otherwise: ConflictStrategy

    def of(self, key: str) -> ConflictStrategy:
        """The strategy of a variable; see `strategy_of`."""
        word = self.declared.get(key)
        return self.otherwise if word is None else strategy_of(word)


_WORDS: Final = frozenset(strategy.value for strategy in ConflictStrategy)


class Conflict(NamedTuple):
    """A variable that a parent and its child have both changed.

    Attributes:
        parent: as it is there; None: it was removed.
        child: as the child exported it.
    """

    key: str
    parent: ContextVariable | None
    child: ContextVariable
    strategy: ConflictStrategy


class Comparison(NamedTuple):
    """What a child has exported, held against its parent.

    Attributes:
        unopposed: variables that the parent takes over as they are.
        conflicts: in the order in which they were exported.
    """

    unopposed: dict[str, ContextVariable]
    conflicts: list[Conflict]


class Resolved(NamedTuple):
    """A conflict that is resolved.

    Attributes:
        variable: the one that stands; None: none, so it is removed. Where it is the parent's own, the very object.
    """

    variable: ContextVariable | None
    resolution: Resolution


def strategy_of(word: str) -> ConflictStrategy:
    """The strategy that a word names. One that is none here, of a newer version, is for a person to resolve."""
    return ConflictStrategy(word) if word in _WORDS else ConflictStrategy.MANUAL_REVIEW


def compared(
    exported: Mapping[str, ContextVariable], parent: Mapping[str, ContextVariable], strategies: Strategies
) -> Comparison:
    """Hold what a child exported against its parent's variables."""
    found = Comparison({}, [])
    for key, child in exported.items():
        held = parent.get(key)
        if is_inherited(child) or (held is not None and identical(held.value, child.value)):
            continue  # the child has not written it; or all agree
        if (None if held is None else held.clock) == child.ancestor and not is_fixed(held):
            found.unopposed[key] = child
        else:
            found.conflicts.append(Conflict(key, held, child, strategies.of(key)))
    return found


def is_for_a_person(conflict: Conflict) -> bool:
    """Whether no strategy may resolve a conflict."""
    return conflict.strategy is ConflictStrategy.MANUAL_REVIEW and not is_fixed(conflict.parent)


def resolved(conflict: Conflict, clock: HybridClock, skew_ms_max: int) -> Resolved:
    """Resolve a conflict that is not for a person.

    Args:
        clock: of this server: dates a value that is neither side's, and tells by how much others are ahead.
    """
    _, parent, child, _ = conflict
    if is_fixed(parent):
        return _standing(conflict, "the parent's was set for good")
    if conflict.strategy is ConflictStrategy.MERGE_OBJECTS and _is_any_guarded(conflict):
        return _standing(conflict, "what is secret or pii is not looked into: the committed value stands")
    sides = _side(parent), _side(child)
    found = resolve(conflict.strategy, *sides)
    found = msgspec.structs.replace(found, variable_name=conflict.key, skewed=_is_skewed(conflict, clock, skew_ms_max))
    if found.value is sides[1].value:
        return Resolved(child, found)
    if found.value is sides[0].value:
        return Resolved(parent, found)
    return Resolved(of_both(parent, child, found.value, clock), found)


def taken_over(variable: ContextVariable, before: ContextVariable | None) -> ContextVariable:
    """A child's variable as its parent has it: of what the parent had inherited it is the parent's own from here on."""
    return msgspec.structs.replace(variable, ancestor=ancestor_of(before))


def _standing(conflict: Conflict, reason: str) -> Resolved:
    value: FreeValue = MISSING if conflict.parent is None else conflict.parent.value
    return Resolved(conflict.parent, Resolution(value, conflict.strategy, reason, variable_name=conflict.key))


def is_fixed(variable: ContextVariable | None) -> bool:
    """Whether a variable is a run's own, and was declared not mutable."""
    return variable is not None and not variable.mutable and not is_inherited(variable)


def _side(variable: ContextVariable | None) -> Side:
    return Side(MISSING) if variable is None else Side(variable.value, hybrid_time(variable.clock))


def _is_any_guarded(conflict: Conflict) -> bool:
    return is_secret(*(each.sensitivity for each in (conflict.parent, conflict.child) if each is not None))


def _is_skewed(conflict: Conflict, clock: HybridClock, skew_ms_max: int) -> bool:
    """Whether time decides, and a clock is so far ahead that it cannot be right."""
    if conflict.strategy is not ConflictStrategy.KEEP_LATEST:
        return False
    times = [_side(each).clock for each in (conflict.parent, conflict.child)]
    return any(time is not None and clock.ahead_ms(time) > skew_ms_max for time in times)


def of_both(
    parent: ContextVariable | None, child: ContextVariable, value: FreeValue, clock: HybridClock
) -> ContextVariable:
    """The child's variable with a value that is neither side's: later than both, and as closed as the more closed."""
    sides = [each for each in (parent, child) if each is not None]
    for each in sides:
        if (seen := hybrid_time(each.clock)) is not None:
            clock.observe(seen)
    time = clock.now()
    return msgspec.structs.replace(
        child,
        value=value,
        clock=time.as_text(),
        timestamp=time.as_datetime(),
        sensitivity=strictest(*(each.sensitivity for each in sides)),
    )
