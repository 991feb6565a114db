"""Operations: what they make of a document, and what is refused before anything is accepted."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fix_operations import LIMITS, Board, Card
from holdfast.documents import (
    BlackboardItem,
    Document,
    FrozenDict,
    FrozenList,
    Limits,
    Part,
    PendingToolCall,
    RunStatus,
    Swarm,
    SwarmPolicy,
    SwarmStats,
    SwarmSubTask,
    encode,
)
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.errors import InvalidOperation
from holdfast.write_behind.applying import apply_all, apply_noting
from holdfast.write_behind.checking import OPERATIONS_MAX, checked
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set
from holdfast.write_behind.places import STEP_CHARS_MAX, STEPS_MAX
from holdfast.write_behind.routes import Inapplicable, value_at
from holdfast.write_behind.typed_values import ABSENT

X, Y = Card(id="x", done_count=1), Card(id="y")
BOARD = Board(
    title="old",
    seen_count=1,
    ratio=0.5,
    cards=[X, Y],
    by_name={"a": X},
    counts={"a": 1},
    topics={"a": ["p"]},
    free={"a": {"b": 1}, "list": [{"id": "x", "n": 1}], "text": "t"},
)


def made(*operations: Operation, of: Document | None = BOARD, kind: type[Document] = Board) -> Any:
    """What operations make of the board."""
    return apply_all(of, checked(kind, operations, LIMITS))


def board(**changes: Any) -> Board:
    """The board with other values."""
    return Board(**{name: getattr(BOARD, name) for name in Board.__struct_fields__ if name != "extra"} | changes)


MADE: dict[str, tuple[Operation, Board | None]] = {
    "attribute": (Set("title", "new"), board(title="new")),
    "whole": (Set(Board(title="other")), Board(title="other")),
    "key": (Set("counts", "b", 2), board(counts={"a": 1, "b": 2})),
    "below_a_free_value": (Set("free", "a", "c", (1,)), board(free={**BOARD.free, "a": {"b": 1, "c": (1,)}})),
    "item_in_place": (Set("cards", Card(id="x", done_count=9), item="x"), board(cards=[Card(id="x", done_count=9), Y])),
    "item_appended": (Set("cards", Card(id="z"), item="z"), board(cards=[X, Y, Card(id="z")])),
    "inside_an_item": (Set("cards", 7, item="y", inside=("done_count",)), board(cards=[X, Card(id="y", done_count=7)])),
    "inside_a_free_item": (
        Increment("free", "list", item="x", inside=("n",)),
        board(free={**BOARD.free, "list": [{"id": "x", "n": 2}]}),
    ),
    "row_deleted": (Delete(), None),
    "key_deleted": (Delete("counts", "a"), board(counts={})),
    "item_deleted": (Delete("cards", item="x"), board(cards=[Y])),
    "attribute_to_its_default": (Delete("either"), board(either="none")),
    "inside_to_its_default": (Delete("cards", item="x", inside=("done_count",)), board(cards=[Card(id="x"), Y])),
    "nothing_deleted": (Delete("cards", item="z"), BOARD),
    "appended": (Append("topics", "a", "q"), board(topics={"a": ["p", "q"]})),
    "appended_of_one_id": (Append("cards", X), board(cards=[X, Y, X])),
    "appended_to_a_tuple": (Append("pair", "p"), board(pair=("p",))),
    "appended_to_an_absent_key": (Append("topics", "b", "q"), board(topics={"a": ["p"], "b": ["q"]})),
    "int": (Increment("seen_count", by=-3), board(seen_count=-2)),
    "float": (Increment("ratio", by=1), board(ratio=1.5)),
    "absent_key_is_0": (Increment("counts", "b"), board(counts={"a": 1, "b": 1})),
    "absent_share_is_a_float": (Increment("shares", "a"), board(shares={"a": 1.0})),
    "free_number": (Increment("free", "a", "b", by=0.5), board(free={**BOARD.free, "a": {"b": 1.5}})),
    "merged": (
        Merge("free", {"a": {"c": 2}, "text": {"now": "a mapping"}}),
        board(free={**BOARD.free, "a": {"b": 1, "c": 2}, "text": {"now": "a mapping"}}),
    ),
    "merged_by_attributes": (
        Merge({"title": "new", "by_name": {"a": {"notes": {"n": 1}}, "b": Y}}),
        board(title="new", by_name={"a": Card(id="x", done_count=1, notes={"n": 1}), "b": Y}),
    ),
    "merged_into_an_item": (Merge("cards", {"done_count": 5}, item="y"), board(cards=[X, Card(id="y", done_count=5)])),
}


@pytest.mark.parametrize("name", MADE)
def test_what_an_operation_makes(name: str) -> None:
    """The document with that change and no other; it can be stored, and the one before is as it was."""
    operation, expected = MADE[name]
    before = encode(BOARD)
    result = made(operation)
    assert result == expected
    assert encode(BOARD) == before
    if expected is not None:
        assert encode(result) == encode(expected)


INAPPLICABLE: dict[str, Operation] = {
    "no_item": Set("cards", 1, item="z", inside=("done_count",)),
    "no_part": Set("pinned", "done_count", 1),
    "no_key_before_the_last": Set("by_name", "b", "done_count", 1),
    "no_mapping": Set("free", "text", "deeper", 1),
    "not_a_sequence_now": Append("either", "p"),
    "text_is_no_number": Increment("free", "text"),
    "no_finite_number": Increment("ratio", by=1e308),
    "none_has_no_attributes": Merge("pinned", {"done_count": 1}),
    "a_mapping_is_no_card": Merge("by_name", {"b": {"done_count": 1}}),
    "free_item_without_an_id": Increment("free", "list", item="z"),
    "free_item_of_another_id": Merge("free", "list", {"n": 1}, item="z"),
    "text_has_no_items": Set("free", "text", {"id": "x"}, item="x"),
}


@pytest.mark.parametrize("name", INAPPLICABLE)
def test_what_the_document_does_not_allow(name: str) -> None:
    """Is told in words, and is no error of the class: another document may allow it."""
    full = board(ratio=1.7e308) if name == "no_finite_number" else BOARD
    with pytest.raises(Inapplicable):
        made(INAPPLICABLE[name], of=full)


def test_only_a_whole_document_needs_none_before() -> None:
    """Nothing else has anything to act on."""
    assert made(Set(BOARD), of=None) == BOARD
    with pytest.raises(Inapplicable):
        made(Increment("seen_count"), of=None)


def swarm(*operations: Operation) -> Callable[[], object]:
    """A patch of a swarm, to be checked."""
    return lambda: checked(Swarm, operations, LIMITS)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no_attribute": (swarm(Set("gaol", "x")), "gaol: Swarm has no attribute 'gaol'"),
    "stored_name": (swarm(Increment("stats", "totalToolCalls")), "stats.totalToolCalls: .*'total_tool_calls' is its"),
    "nothing_below": (swarm(Set("goal", "x", "y")), "goal.x: nothing is below"),
    "unknown_fields": (swarm(Set("extra", {})), "extra: Swarm has no attribute"),
    "method": (swarm(Set("upgrade", 1)), "upgrade: Swarm has no attribute"),
    "wrong_type": (swarm(Set("goal", 1)), "goal: Expected `str | null`, got `int`"),
    "wrong_type_inside_a_value": (
        swarm(Set("blackboard", [BlackboardItem(id="b1", created_at="now")])),  # type: ignore[arg-type]
        r"blackboard\[0\].created_at: Invalid RFC3339",
    ),
    "wrong_type_in_a_merge": (
        swarm(Merge({"policy": {"acl": [1]}})),
        r"policy.acl\[0\]: Expected `str`, got `int`",
    ),
    "no_attribute_in_a_merge": (swarm(Merge("stats", {"credits": 1})), "stats.credits: there is no such attribute"),
    "no_free_value": (swarm(Set("metadata", "a", {"b": object()})), "metadata.a.b: object cannot be stored"),
    "no_document": (swarm(Set({"goal": "x"})), "document: Expected `Swarm`, got `dict`"),
    "no_number": (swarm(Increment("goal")), "goal: is no number"),
    "fraction_of_an_int": (swarm(Increment("stats", "total_credits", by=0.5)), "stats.total_credits: is an int"),
    "not_finite": (swarm(Increment("metadata", "n", by=math.inf)), "metadata.n: by= is a finite number"),
    "true_is_no_number": (swarm(Increment("metadata", "n", by=True)), "metadata.n: by= is a finite number"),
    "no_sequence": (swarm(Append("goal", "x")), "goal: is no sequence"),
    "no_items": (swarm(Set("metadata", 1, item="x")), "only a sequence of things with ids"),
    "texts_have_no_ids": (swarm(Delete("policy", "acl", item="x")), "only a sequence of things with ids"),
    "no_mapping_merged": (swarm(Merge("goal", {})), "goal: is no mapping"),
    "a_list_merged": (swarm(Merge("metadata", [("a", 1)])), "metadata: Merge takes a mapping, not list"),
    "other_id": (swarm(Set("subtasks", SwarmSubTask(id="t2"), item="t1")), "the value's own id is 't2'"),
    "id_changed": (swarm(Set("subtasks", "t2", item="t1", inside=("id",))), "the id of an item does not change"),
    "id_merged": (swarm(Merge("subtasks", {"id": "t2"}, item="t1")), "the id of an item does not change"),
    "pending_id_changed": (swarm(Set("pending_tool_calls", "p", item="c", inside=("pending_id",))), "does not change"),
    "no_default": (swarm(Delete("records", item="r1", inside=("routine_id",))), "has no default"),
    "element_no_text": (swarm(Set("metadata", 1, 2)), "a step of a path is a text"),
    "element_no_text_at_all": (swarm(Set("metadata", [], 2)), "a step of a path is a text"),
    "element_empty": (swarm(Set("metadata", "", 2)), "a step of a path is a text"),
    "element_with_nul": (swarm(Set("metadata", "a\0", 2)), "a step of a path is a text"),
    "element_too_long": (swarm(Set("metadata", "a" * (STEP_CHARS_MAX + 1), 2)), "of 1 to 200 characters"),
    "element_half_a_pair": (swarm(Set("metadata", "\ud800", 2)), "is not valid Unicode"),
    "path_too_long": (swarm(Set("metadata", *["a"] * STEPS_MAX, 2)), "at most 16 texts"),
    "inside_is_a_text": (swarm(Set("subtasks", 1, item="t", inside="id")), "is a tuple"),  # type: ignore[arg-type]
    "inside_nothing": (swarm(Set("subtasks", 1, inside=("status",))), "item= is missing"),
    "too_many": (swarm(*[Increment("stats", "total_credits")] * (OPERATIONS_MAX + 1)), "at most 1000"),
    "no_operation": (lambda: checked(Swarm, ["x"], LIMITS), "expected an operation"),  # type: ignore[list-item]
    "too_large": (lambda: checked(Swarm, [Set("goal", "x" * 99)], Limits(bytes_max=90)), "goal: .*90"),
    "too_deep": (lambda: checked(Swarm, [Set("metadata", "a", [[1]])], Limits(depth_max=3)), "metadata.a.*deep"),
    "path_too_deep": (lambda: checked(Swarm, [Set("metadata", *"abc", 1)], Limits(depth_max=2)), "metadata.a.b.c"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(name: str) -> None:
    """Before anything is accepted."""
    patch, message = REFUSED[name]
    with pytest.raises(InvalidOperation, match=message):
        patch()


def test_a_value_that_contains_itself_is_refused() -> None:
    """By each operation that takes one."""
    knot: dict[str, Any] = {}
    knot["a"] = knot
    for operation in (Set("metadata", knot), Append("available_tools", knot), Merge("metadata", knot), Merge(knot)):
        with pytest.raises(InvalidOperation):
            checked(Swarm, [operation], LIMITS)


def test_all_of_a_patch_has_one_limit() -> None:
    """However many operations it has."""
    one = Append("available_tools", "x" * 1000)
    limits = Limits(bytes_max=10_000)
    assert len(checked(Swarm, [one] * 50, limits)) == 50
    with pytest.raises(InvalidOperation, match="available_tools: here the patch passes"):
        checked(Swarm, [one] * 100, limits)


def test_the_depth_of_a_value_is_that_of_the_document() -> None:
    """What is accepted at a limit can be stored at it, and nothing that could is refused."""
    limits = Limits(depth_max=4)
    for operation in (
        Set("metadata", "a", "b", {"c": 1}),
        Merge("metadata", {"a": {"b": {"c": 1}}}),
        Set("blackboard", {"c": 1}, item="b1", inside=("value",)),
    ):
        of = Swarm(metadata={"a": {}}, blackboard=[BlackboardItem(id="b1")])
        encode(made(operation, of=of, kind=Swarm), limits)
        checked(Swarm, [operation], limits)
        with pytest.raises(InvalidOperation):
            checked(Swarm, [operation], Limits(depth_max=3))


def test_the_callers_own_values_may_change_afterwards() -> None:
    """A checked operation has copies that cannot change."""
    words = {"a": ["p"]}
    kept = checked(Board, [Set("free", words), Append("cards", Card(id="z")), Merge("topics", words)], LIMITS)
    words["a"].append("q")
    words["b"] = []
    assert [repr(each) for each in kept] == [
        "Set('free', {'a': ['p']})",
        f"Append('cards', {Card(id='z')!r})",
        "Merge('topics', {'a': ['p']})",
    ]
    first = kept[0]
    assert isinstance(first, Set)
    assert type(first.value) is FrozenDict
    assert type(first.value["a"]) is FrozenList


def test_values_are_kept_as_they_are_read_back() -> None:
    """So that what a writer sees has the fingerprint that it has once it is committed."""
    kept = checked(Swarm, [Set("execution", "status", RunStatus.RUNNING)], LIMITS)
    assert repr(kept) == "(Set('execution', 'status', 'running'),)"
    assert repr(checked(Board, [Set("ratio", 1), Merge({"ratio": 1})], LIMITS)) == (
        "(Set('ratio', 1.0), Merge({'ratio': 1.0}))"
    )


def test_times_keep_their_type_by_their_place() -> None:
    """In a declared field and in a free value."""
    now = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    kept = checked(
        Swarm,
        [
            Set("execution", "last_activity_at", now),
            Merge({"metadata": {"at": now}, "execution": {"last_activity_at": now}}),
        ],
        LIMITS,
    )
    result = apply_all(Swarm(), kept)
    assert isinstance(result, Swarm)
    assert result.execution.last_activity_at == result.metadata["at"] == now


def test_operations_are_compared_by_what_they_say() -> None:
    """And say how they were made."""
    assert Set("a", 1, item="x") == Set("a", 1, item="x") != Set("a", 1, item="y")
    several: list[Operation] = [Increment("a"), Delete("a"), Set("a", 1), Append("a", 1), Merge("a", {})]
    assert all(one == other for one in several for other in several if one is other)
    assert not any(one == other for one in several for other in several if one is not other)
    assert repr(Set("a", 1, item="x", inside=("b",))) == "Set('a', 1, item='x', inside=('b',))"
    assert repr(Delete("a")) == "Delete('a')"
    assert str(Place(("a", "b c"), "x", ("d",))) == "a['b c'][id='x'].d"
    with pytest.raises(AttributeError):
        Increment("a").by = 2  # type: ignore[misc]
    for sort in (Set, Append, Merge):
        with pytest.raises(TypeError, match="behind its path"):
            sort()


def test_what_was_replaced_is_told_apart() -> None:
    """A `Set` notes it; values that differ in type alone differ, and none is a value of its own."""

    def noted(before: object) -> bytes | None:
        of = Board(free={} if before is None else {"a": before})
        return apply_noting(of, checked(Board, [Set("free", "a", "new")], LIMITS))[1][0]

    assert len({noted(each) for each in (None, 1, 1.0, True, "1", (1,), [1])}) == 7
    assert noted(None) == ABSENT
    assert apply_noting(None, checked(Board, [Set(BOARD), Delete()], LIMITS)) == (None, (ABSENT, None))


class Strict(Part, frozen=True, kw_only=True):
    """A part that checks itself."""

    id: str = ""
    low: int = 0
    high: int = 9
    names: Sequence[str] = EMPTY_LIST

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Holder(Document, frozen=True, kw_only=True):
    """A document with such a part."""

    strict: Strict = Strict()


def test_a_class_that_checks_itself_is_asked() -> None:
    """Its refusal is the document's."""
    assert made(Set("strict", "low", 3), of=Holder(), kind=Holder) == Holder(strict=Strict(low=3))
    for operation in (Set("strict", "low", 10), Merge("strict", {"low": 10}), Increment("strict", "low", by=10)):
        with pytest.raises(Inapplicable, match="low is above high"):
            made(operation, of=Holder(), kind=Holder)


def test_a_document_is_shared_but_for_what_changed() -> None:
    """The way is made anew, and nothing beside it is copied."""
    result = made(Set("cards", 7, item="y", inside=("done_count",)))
    assert result.cards[0] is X
    assert result.free is BOARD.free
    assert value_at(result, Place(("cards",), "y", ("done_count",))) == 7
    assert made(Delete("free", "nowhere")) is BOARD


def test_operations_that_a_swarm_needs() -> None:
    """The door's own examples, with pending calls by their `pending_id`."""
    call = PendingToolCall(
        pending_id="c1", tool_call_id="", tool_name="", tool_arguments="", caller_bot_id="", conversation_id="",
        requested_at=1, status="PENDING_APPROVAL",
    )  # fmt: skip
    result = made(
        Increment("stats", "total_tool_calls", by=1),
        Set("blackboard", BlackboardItem(id="b1", value=1), item="b1"),
        Append("pending_tool_calls", call),
        Set("pending_tool_calls", "EXECUTING", item="c1", inside=("status",)),
        Set("policy", SwarmPolicy()),
        Append("policy", "acl", "u1"),
        of=Swarm(),
        kind=Swarm,
    )
    assert result.stats == SwarmStats(total_tool_calls=1)
    assert result.blackboard == [BlackboardItem(id="b1", value=1)]
    assert result.pending_tool_calls[0].status == "EXECUTING"
    assert result.policy == SwarmPolicy(acl=["u1"])
