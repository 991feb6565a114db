"""Entries in words, for people who do not know their kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from fix_left_journals import KINDS, LIMITS
from holdfast import Append, Delete, Document, Increment, Kind, Merge, Set, Swarm
from holdfast.documents import BlackboardItem
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.errors import CorruptDocument
from holdfast.keys import Key
from holdfast.write_behind.checking import checked
from holdfast.write_behind.entries import Entry, encode_entry
from holdfast.write_behind.operations import Operation
from holdfast.write_behind.outlines import SHOWN_MAX, Outline, accepted_at_ms, outline

KEY = Key("swarm", "s1")


class Plan(Document, frozen=True, kw_only=True):
    """An own document."""

    title: str
    weights: Mapping[str, int] = EMPTY_DICT


PLANS = Kind("plan", Plan)


def of(*operations: Operation, key: Key = KEY, kind: Kind[Swarm] | Kind[Plan] = KINDS["swarm"]) -> bytes:
    """The bytes of an entry."""
    ready = checked(kind.document, operations, LIMITS)
    made = Entry(7, key, ready, 0, 0, None, (None,) * len(ready), kind.document.SCHEMA, 1234)
    return encode_entry(made, {**KINDS, "plan": PLANS})


def shown(*operations: Operation) -> Sequence[str]:
    """What is shown of operations on a swarm."""
    return outline(of(*operations), 7, LIMITS).operations


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (Set("goal", "ship it"), 'set goal to "ship it"'),
        (Set("goal", None), "set goal to null"),
        (Set("blackboard", [1], item="b1", inside=("value",)), "set blackboard[id='b1'].value to [1]"),
        (Delete("metadata", "a.b"), "delete metadata['a.b']"),
        (Delete(), "delete the document"),
        (Append("available_tools", "search"), 'append "search" to available_tools'),
        (Increment("stats", "total_tool_calls", by=-2), "add -2 to stats.total_tool_calls"),
        (Increment("metadata", "n", by=0.5), "add 0.5 to metadata.n"),
        (Merge("metadata", {"a": 1}), 'merge {"a":1} into metadata'),
        (Merge("stats", {"total_credits": 5}), "merge total_credits: 5 into stats"),
        (Merge({"goal": "x"}), 'merge goal: "x" into the document'),
    ],
)
def test_each_operation_has_words(operation: Operation, words: str) -> None:
    """What is done, and where, as errors write a place."""
    assert shown(operation) == (words,)


def test_values_are_cut_short() -> None:
    """A long one shows its beginning, a whole document its size, and of many a few."""
    (long,) = shown(Set("goal", "\u00e9" * 100_000))
    assert long == 'set goal to "' + "\u00e9" * 36 + "..."
    (whole,) = shown(Set(Swarm(goal="secret" * 100)))
    assert whole.startswith("put a document of ")
    assert "secret" not in whole
    (item,) = shown(Set("blackboard", BlackboardItem(id="b1", value="x" * 1000), item="b1"))
    assert len(item) < 100
    many = shown(*(Increment("metadata", f"n{number}") for number in range(100)))
    assert (len(many), many[-1]) == (SHOWN_MAX + 1, f"and {100 - SHOWN_MAX} more operations")
    (appended,) = shown(Append.several(Append("available_tools", 0).place, tuple(range(1000))))
    assert appended == "append 0, 1, 2, 3, 4, and 995 more to available_tools"


def test_a_kind_that_is_unknown_here_is_shown_too() -> None:
    """Only applying an entry takes the class of its kind."""
    data = of(Set("title", "x"), Merge("weights", {"a": 1}), key=Key("plan", "p1"), kind=PLANS)
    assert outline(data, 7, LIMITS) == Outline(
        Key("plan", "p1"), ('set title to "x"', "merge a: 1 into weights"), accepted_at_ms=1234
    )


@pytest.mark.parametrize(("data", "fault"), [(b"x" * 40, CorruptDocument), (b"", CorruptDocument)])
def test_what_is_no_entry_is_not_shown(data: bytes, fault: type[Exception]) -> None:
    """Nor has it a time."""
    with pytest.raises(fault):
        outline(data, 7, LIMITS)
    assert accepted_at_ms(data, 7, LIMITS) is None
    assert accepted_at_ms(of(Set("goal", "x")), 8, LIMITS) is None  # it stands under another number
    assert accepted_at_ms(of(Set("goal", "x")), 7, LIMITS) == 1234
