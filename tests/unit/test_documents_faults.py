"""What does not fit is refused before anything is written, with the path of the fault."""

from __future__ import annotations

import datetime as dt
import math
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.documents import (
    BlackboardItem,
    ContextVariable,
    Document,
    FrozenDict,
    Limits,
    Part,
    Routine,
    RoutineStep,
    RunContextSnapshot,
    RunStatus,
    SubTaskStatus,
    Swarm,
    SwarmExecution,
    SwarmScheduling,
    SwarmStats,
    SwarmSubTask,
    decode,
    encode,
)
from holdfast.errors import DocumentTooDeep, DocumentTooLarge, InvalidDocument, SettingsError


def wrong(**fields: Any) -> Swarm:
    """A swarm with values that its types do not allow."""
    return Swarm(**fields)


class SpecialItem(BlackboardItem, frozen=True, kw_only=True):
    """A part that is not of the declared class, but derives from it."""


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        (wrong(stats="x"), "stats", "Expected `SwarmStats`, got `str`"),
        (wrong(goal=3), "goal", "Expected `str | null`, got `int`"),
        (wrong(goal=b"x"), "goal", "Expected `str | null`, got `bytes`"),
        (wrong(goal=["x"]), "goal", "Expected `str | null`, got `array`"),
        (wrong(blackboard=None), "blackboard", "Expected `array`, got `null`"),
        (wrong(blackboard="b1"), "blackboard", "Expected `array`, got `str`"),
        (wrong(blackboard={"id": "b1"}), "blackboard", "Expected `array`, got `object`"),
        (wrong(blackboard=[{"id": "b1"}]), "blackboard[0]", "Expected `BlackboardItem`, got `dict`"),
        (wrong(stats=None), "stats", "Expected `SwarmStats`, got `null`"),
        (wrong(stats=SwarmExecution()), "stats", "Expected `SwarmStats`, got `SwarmExecution`"),
        (wrong(stats={"totalCredits": 1}), "stats", "Expected `SwarmStats`, got `dict`"),
        (wrong(blackboard=[None]), "blackboard[0]", "Expected `BlackboardItem`, got `null`"),
        (wrong(blackboard=[SpecialItem(id="x")]), "blackboard[0]", "Expected `BlackboardItem`, got `SpecialItem`"),
        (wrong(blackboard={SpecialItem: 1}), "blackboard", "Expected `array`, got `object`"),
        (wrong(metadata=[]), "metadata", "Expected `object`, got `array`"),
        (wrong(metadata={1: 2}), "metadata[1]", "Expected `str`, got `int`"),
        (wrong(subtask_leaders={"a": "b", "c d": 1}), "subtask_leaders['c d']", "Expected `str`, got `int`"),
        (wrong(event_subscriptions={"t": ["b"], "u": ["b", 1]}), "event_subscriptions.u[1]", "Expected `str`"),
        (wrong(stats=SwarmStats(total_tool_calls="x")), "stats.total_tool_calls", "Expected `int`, got `str`"),  # type: ignore[arg-type]
        (wrong(stats=SwarmStats(total_tool_calls=True)), "stats.total_tool_calls", "Expected `int`, got `bool`"),
        (wrong(stats=SwarmStats(total_tool_calls=1.0)), "stats.total_tool_calls", "Expected `int`, got `float`"),  # type: ignore[arg-type]
        (wrong(stats=SwarmStats(total_credits=10**5000)), "stats.total_credits", "cannot be written as JSON"),
        (
            wrong(subtasks=[SwarmSubTask(id="a"), SwarmSubTask(id="b", depends_on=[1])]),  # type: ignore[list-item]
            "subtasks[1].depends_on[0]",
            "Expected `str`, got `int`",
        ),
        (
            wrong(blackboard=[BlackboardItem(id="b", created_at="2025-06-01T10:00:00Z")]),  # type: ignore[arg-type]
            "blackboard[0].created_at",
            "Expected `datetime`, got `str`",
        ),
        (
            wrong(execution=SwarmExecution(last_activity_at=dt.date(2025, 6, 1))),  # type: ignore[arg-type]
            "execution.last_activity_at",
            "got `date`",
        ),
        (
            wrong(scheduling=SwarmScheduling(requires_approval_tools=7)),  # type: ignore[arg-type]
            "scheduling.requires_approval_tools",
            "Expected `str | array`, got `int`",
        ),
        (wrong(goal="a\0b"), "goal", "holds a NUL character"),
        (wrong(subtask_leaders={"a": "\ud800"}), "subtask_leaders.a", "is not valid Unicode"),
        (wrong(subtask_leaders={"\ud800": "a"}), r"subtask_leaders['\ud800']", "is not valid Unicode"),
        (wrong(extra="x"), "extra", "Expected `object`, got `str`"),
        (wrong(extra={"goal": 1}), "extra.goal", "is a field of Swarm: set that one"),
        (wrong(extra={"preferredModel": 1}), "extra.preferredModel", "is a field of Swarm"),
        (wrong(extra={"__version": 9}), "extra.__version", "is a field of Swarm"),
        (wrong(extra={1: 9}), "extra[1]", "the name of a field is text"),
        (wrong(extra={"later": {"deep": object()}}), "extra.later.deep", "object cannot be stored"),
        (wrong(extra={"later": "\0"}), "extra.later", "holds a NUL character"),
        (
            wrong(blackboard=[BlackboardItem(id="b", extra=FrozenDict(value=1))]),
            "blackboard[0].extra.value",
            "is a field of BlackboardItem",
        ),
        (
            RunContextSnapshot(
                run_id="r", routine_id="t", sequence=1, variables={"a": ContextVariable(key="a", value=print)}
            ),
            "variables.a.value",
            "cannot be stored in a free value",
        ),
        (
            Routine(steps=[RoutineStep(step_id="s", timeout_ms="soon")]),  # type: ignore[arg-type]
            "steps[0].timeout_ms",
            "Expected `int | null`, got `str`",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(document: Document, path: str, reason: str) -> None:
    """Wrong types, wrong classes and text that cannot be stored are found wherever they are."""
    with pytest.raises(InvalidDocument) as caught:
        encode(document)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_something_else_than_a_document_is_refused() -> None:
    """A dict, a part, a class: only documents are stored."""
    for value in ({"goal": "g"}, SwarmStats(), Swarm):
        with pytest.raises(InvalidDocument, match="expected a Document"):
            encode(value)  # type: ignore[arg-type]


class Text(str):
    __slots__ = ()


class Precise(Document, frozen=True, kw_only=True):
    """A document of values that JSON writes as text or numbers."""

    number: float = 0.0
    numbers: dict[str, float] = msgspec.field(default_factory=dict)
    when: dt.datetime | None = None
    clock: dt.time | None = None
    either: int | dt.datetime = 0
    positive: Annotated[int, msgspec.Meta(ge=1)] = 1
    few: Annotated[list[int], msgspec.Meta(max_length=2)] = msgspec.field(default_factory=list)
    text: str = ""


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"number": math.nan}, "number", "nan is no JSON number"),
        ({"number": -math.inf}, "number", "-inf is no JSON number"),
        ({"numbers": {"a": 1.0, "b": math.inf}}, "numbers.b", "inf is no JSON number"),
        ({"number": "1.0"}, "number", "Expected `float`"),
        ({"number": 2**53 + 1}, "number", "no exact float"),
        ({"numbers": {"a": 2**60 + 1}}, "numbers.a", "no exact float"),
        ({"numbers": {"a": 10**400}}, "numbers.a", "Number out of range"),
        ({"when": "2025-06-01T10:00:00"}, "when", "Expected `datetime`, got `str`"),
        ({"either": "2025-06-01T10:00:00"}, "either", "Expected `datetime`, got `str`"),
        (
            {"when": dt.datetime(1900, 1, 1, tzinfo=dt.timezone(dt.timedelta(minutes=9, seconds=21)))},
            "when",
            "has seconds",
        ),
        ({"clock": dt.time(1, tzinfo=dt.timezone(dt.timedelta(seconds=30)))}, "clock", "has seconds"),
        ({"positive": 0}, "positive", "Expected `int` >= 1"),
        ({"few": [1, 2, 3]}, "few", "Expected `array` of length <= 2"),
        ({"text": Text("x")}, "text", "cannot be written as JSON"),
    ],
)
def test_values_that_json_would_change_are_refused(fields: dict[str, Any], path: str, reason: str) -> None:
    """NaN would become null, text a date, a second of an offset nothing: each is refused, as are broken constraints."""
    with pytest.raises(InvalidDocument) as caught:
        encode(Precise(**fields))
    assert caught.value.path == path
    assert reason in caught.value.reason


@settings(deadline=None, max_examples=150)
@given(
    number=st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    when=st.none() | st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    text=st.text(),
    few=st.lists(st.integers(), max_size=4),
)
def test_a_document_is_refused_or_comes_back_equal(
    number: float, when: dt.datetime | None, text: str, few: list[int]
) -> None:
    """There is no third case: what encode returns, decode restores."""
    document = Precise(number=number, when=when, text=text, few=few)
    try:
        body = encode(document)
    except InvalidDocument as refusal:
        assert refusal.path in {"number", "text", "few"}  # noqa: PT017  # either outcome is right; this one has a path
    else:
        assert decode(Precise, body) == document


def test_enum_members_are_taken_for_their_text() -> None:
    """Fields documented by an enum take its members; unknown words pass, for newer servers write them."""
    swarm = Swarm(
        subtasks=[SwarmSubTask(id="a", status=SubTaskStatus.DONE), SwarmSubTask(id="b", status="postponed")],
        execution=SwarmExecution(status=RunStatus.PAUSED),
    )
    again = decode(Swarm, encode(swarm))
    assert again == swarm
    assert again.subtasks[1].status == "postponed"
    assert again.subtasks[0].status == SubTaskStatus.DONE


def nested(levels: int) -> Any:
    """A free value that is `levels` containers deep."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize("extra_level", [0, 1])
def test_the_depth_limit_counts_every_container(extra_level: int) -> None:
    """A document, its list, its item and the item's value add up; one level more is refused, with the path."""
    limits = Limits(depth_max=10)
    document = Swarm(blackboard=[BlackboardItem(id="b", value=nested(7 + extra_level))])
    if not extra_level:
        assert decode(Swarm, encode(document, limits)) == document
        return
    with pytest.raises(DocumentTooDeep) as caught:
        encode(document, limits)
    assert caught.value.path.startswith("blackboard[0].value[0].k[0].k")


@pytest.mark.parametrize(
    ("document", "path"),
    [(Precise(few=[1]), "few"), (Precise(numbers={"a": 1.0}), "numbers"), (Swarm(), "stats")],
    ids=["list", "mapping", "part"],
)
def test_each_kind_of_typed_container_is_a_level(document: Document, path: str) -> None:
    """A limit of one level leaves room for the document alone."""
    assert encode(document, Limits(depth_max=2))
    with pytest.raises(DocumentTooDeep) as caught:
        encode(document, Limits(depth_max=1))
    assert caught.value.path == path


def test_depth_is_counted_through_tags() -> None:
    """Tuples, sets and dicts with other keys count one level each, whatever their stored form takes."""
    value: Any = 1
    for level in range(40):
        value = ((value,), {1: value}, {level: (value,)})[level % 3]
    document = Swarm(metadata={"v": value})
    assert decode(Swarm, encode(document, Limits(depth_max=60))) == document
    with pytest.raises(DocumentTooDeep, match=r"^metadata\.v"):
        encode(document, Limits(depth_max=50))


def test_the_deepest_document_that_can_be_built_is_read_again() -> None:
    """At the ceiling of 128 levels tagged values still round-trip."""
    value: Any = 1
    for _ in range(126):
        value = {1: value}
    document = Swarm(metadata={"v": value})
    assert decode(Swarm, encode(document, Limits(depth_max=128))) == document
    with pytest.raises(DocumentTooDeep, match=r"^metadata\.v"):
        Swarm(metadata={"v": {1: {1: {1: value}}}})


class Node(Part, frozen=True, kw_only=True):
    """A part that holds parts of its own class."""

    name: str = ""
    nodes: tuple[Node, ...] = ()


class Tree(Document, frozen=True, kw_only=True):
    root: Node


def test_parts_that_hold_themselves_are_limited_too() -> None:
    """A tree of parts counts two levels for each node: its tuple and itself."""
    node = Node(name="leaf")
    for _ in range(20):
        node = Node(nodes=(node,))
    tree = Tree(root=node)
    assert decode(Tree, encode(tree)) == tree
    with pytest.raises(DocumentTooDeep, match=r"^root\.nodes\[0\]\.nodes\[0\]"):
        encode(tree, Limits(depth_max=30))


def test_the_size_limit_names_the_bulk() -> None:
    """A document over the limit is refused with the path to most of its bytes."""
    document = Swarm(
        goal="g",
        blackboard=[BlackboardItem(id="a"), BlackboardItem(id="b", value={"log": "x" * 5000, "n": 1})],
    )
    size = len(encode(document))
    assert len(encode(document, Limits(bytes_max=size))) == size
    with pytest.raises(DocumentTooLarge) as caught:
        encode(document, Limits(bytes_max=size - 1))
    assert caught.value.path == "blackboard[1].value.log"
    assert caught.value.reason == f"the document has {size} bytes, at most {size - 1}; 5002 of them are here"


def test_the_size_limit_stops_where_no_child_has_most_of_the_bytes() -> None:
    """A list of a thousand small items is the fault itself."""
    document = Swarm(blackboard=[BlackboardItem(id=str(number)) for number in range(1000)])
    with pytest.raises(DocumentTooLarge) as caught:
        encode(document, Limits(bytes_max=10_000))
    assert caught.value.path == "blackboard"


def test_the_size_is_that_of_the_json_in_utf8() -> None:
    """Bytes count, not characters."""
    assert len(encode(Swarm(goal="ä"))) == len(encode(Swarm(goal="aa")))


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"bytes_max": 0}, "bytes_max"), ({"depth_max": 0}, "depth_max"), ({"depth_max": 129}, "between 1 and 128")],
)
def test_limits_that_cannot_work_are_refused(limits: dict[str, int], message: str) -> None:
    """The limits check themselves."""
    with pytest.raises(SettingsError, match=message):
        Limits(**limits)
