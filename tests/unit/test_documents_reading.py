"""Reading: unknown fields are kept, older schemas upgraded, newer ones told apart from corruption."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.documents import (
    BlackboardItem,
    ContextVariable,
    Document,
    Limits,
    Part,
    PendingToolCall,
    RunContextSnapshot,
    Swarm,
    SwarmLimits,
    SwarmStats,
    decode,
    encode,
)
from holdfast.errors import CorruptDocument, DocumentTooDeep, SchemaTooNew

SCHEMA_ONE = b"""{
  "__version": "1.0",
  "goal": "Sell bicycles",
  "blackboard": [{"id": "b1", "value": {"price": 12.5}, "created_at": "2025-06-05T09:30:00.000Z"}],
  "stats": {"totalToolCalls": 3, "totalCredits": "9007199254740993", "startedAt": 1749115800000,
            "lastProcessingCycleEndedAt": null},
  "limits": {"maxToolCalls": 100, "maxCreditsPerBotResponse": "2000000", "maxCredits": "100000000"},
  "scheduling": {"requiresApprovalTools": "all"},
  "pendingToolCalls": [{"pendingId": "p1", "toolCallId": "c1", "toolName": "search", "toolArguments": "{}",
    "callerBotId": "b", "conversationId": "s", "requestedAt": 1749115800000, "status": "PENDING_APPROVAL",
    "executionAttempts": 0, "cost": "12"}]
}"""


def test_a_document_of_schema_one_is_upgraded_when_read() -> None:
    """Credits were decimal text in schema 1: they become integers, exact beyond 2^53, and are stored so."""
    swarm = decode(Swarm, SCHEMA_ONE)
    assert swarm == Swarm(
        goal="Sell bicycles",
        blackboard=[
            BlackboardItem(
                id="b1", value={"price": 12.5}, created_at=dt.datetime(2025, 6, 5, 9, 30, tzinfo=dt.UTC)
            )
        ],
        stats=SwarmStats(total_tool_calls=3, total_credits=9007199254740993, started_at=1749115800000),
        limits=SwarmLimits(max_tool_calls=100, max_credits_per_bot_response=2_000_000, max_credits=100_000_000),
        scheduling=Swarm().scheduling.__class__(requires_approval_tools="all"),
        pending_tool_calls=[
            PendingToolCall(
                pending_id="p1", tool_call_id="c1", tool_name="search", tool_arguments="{}", caller_bot_id="b",
                conversation_id="s", requested_at=1749115800000, status="PENDING_APPROVAL", cost=12,
            )
        ],
    )  # fmt: skip
    stored = msgspec.json.decode(encode(swarm))
    assert stored["__version"] == 2
    assert stored["stats"]["totalCredits"] == 9007199254740993


@pytest.mark.parametrize("version", ['"__version":"1.0",', '"__version":"1",', '"__version":1,', ""])
def test_the_ways_schema_one_was_written(version: str) -> None:
    """The original system wrote text, and a row written by hand may have no number: all are schema 1."""
    body = f'{{{version}"stats":{{"totalCredits":"7"}}}}'.encode()
    assert decode(Swarm, body).stats.total_credits == 7


@pytest.mark.parametrize(
    "fields",
    [
        '"stats":{"totalCredits":"seven"}',
        '"stats":[]',
        '"limits":"none"',
        '"pendingToolCalls":[1]',
        '"pendingToolCalls":7',
    ],
)
def test_an_upgrade_that_fails_on_the_fields_is_corruption(fields: str) -> None:
    """Fields that schema 1 never had are reported with the step that met them, or with their path."""
    with pytest.raises(CorruptDocument, match=r"swarm:s1 (cannot be upgraded from schema 1 to 2|.* at \w+)"):
        decode(Swarm, f'{{"__version":1,{fields}}}'.encode(), what="swarm:s1")


class Plan(Document, frozen=True, kw_only=True):
    """A document at its third schema."""

    SCHEMA: ClassVar[int] = 3
    steps: list[str]

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:
        if schema == 1:
            return {"text": fields["todo"]}
        return {"steps": fields["text"].split(",")}


def test_upgrades_run_one_step_at_a_time() -> None:
    """From schema 1 to 3 by way of 2; from 2 only the last step."""
    assert decode(Plan, b'{"__version":1,"todo":"a,b"}') == Plan(steps=["a", "b"])
    assert decode(Plan, b'{"__version":2,"text":"a,b"}') == Plan(steps=["a", "b"])
    assert decode(Plan, b'{"__version":3,"steps":["a"]}') == Plan(steps=["a"])


@pytest.mark.parametrize("rest", ["", ',"goal":5', ',"stats":"other"', ',"blackboard":{"b1":{"$new":1}}'])
def test_a_newer_schema_is_not_corruption(rest: str) -> None:
    """A document from a newer server is told apart whatever its fields look like."""
    with pytest.raises(SchemaTooNew, match="swarm:s1 has schema 3") as caught:
        decode(Swarm, f'{{"__version":3{rest}}}'.encode(), what="swarm:s1")
    assert (caught.value.found, caught.value.known) == (3, 2)


@pytest.mark.parametrize("version", ["0", "-1", "true", "null", '"2"', "2.0", "[]"])
def test_what_is_no_schema_number_is_corruption(version: str) -> None:
    """Only positive integers, and the text of the original system, are schema numbers."""
    with pytest.raises(CorruptDocument, match="is no schema number"):
        decode(Swarm, f'{{"__version":{version}}}'.encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"__version":2,', "is not JSON"),
        (b'{"__version":2,}', "is not JSON"),
        (b'{"__version":2} x', "is not JSON"),
        (b"\x00\xff\xfe", "is not JSON"),
        (b'{"__version":2,"goal":"\xff"}', "is not JSON"),
        (b'{"__version":2,"goal":"\\ud800"}', "is not JSON"),
        (b'{"__version":2,"goal":NaN}', "is not JSON"),
        (b"[]", "is not a JSON object but list"),
        (b"null", "is not a JSON object but NoneType"),
        (b'{"__version":2,"goal":5}', r"at goal: Expected `str \| null`, got `int`"),
        (b'{"__version":2,"preferredModel":5}', "at preferred_model: "),
        (b'{"__version":2,"stats":{"totalToolCalls":"x"}}', "at stats.total_tool_calls: "),
        (b'{"__version":2,"blackboard":[{"id":"a"},{"value":1}]}', r"at blackboard\[1\]: .*required field `id`"),
        (b'{"__version":2,"blackboard":{}}', "at blackboard: "),
        (b'{"__version":2,"blackboard":[1]}', r"at blackboard\[0\]: "),
        (b'{"__version":2,"subtaskLeaders":{"a":"b","c":1}}', "at subtask_leaders.c: "),
        (b'{"__version":2,"eventSubscriptions":{"a":["b"],"c":["b",1]}}', r"at event_subscriptions.c\[1\]: "),
        (b'{"__version":2,"blackboard":[{"id":"a","created_at":"x"}]}', r"at blackboard\[0\].created_at: "),
        (b'{"__version":2,"goal":5,"unknown":1}', "at goal: "),
    ],
)
def test_bytes_that_do_not_hold_the_document_are_corrupt(body: bytes, message: str) -> None:
    """The error names the document, and the path in the words of Python."""
    with pytest.raises(CorruptDocument, match=f"^swarm:s1 .*{message}"):
        decode(Swarm, body, what="swarm:s1")


def test_a_fault_behind_the_key_of_a_mapping_is_found() -> None:
    """Of the variables of a run the faulty one is named."""
    body = (
        b'{"__version":1,"runId":"r","routineId":"t","sequence":1,'
        b'"variables":{"a":{"key":"a"},"b":{"key":"b","mutable":"no"}}}'
    )
    with pytest.raises(CorruptDocument, match=r"at variables\.b\.mutable: Expected `bool`"):
        decode(RunContextSnapshot, body)


@settings(deadline=None, max_examples=200)
@given(cut=st.integers(0, 400), flip=st.integers(0, 399), value=st.integers(0, 255))
def test_damaged_bytes_give_a_document_or_a_typed_error(cut: int, flip: int, value: int) -> None:
    """Cut anywhere, or with any byte changed, a body never raises anything else."""
    body = bytearray(encode(Swarm(goal="x", metadata={"v": (Decimal("1.5"), {1: [b"x"]})}))[:cut])
    if flip < len(body):
        body[flip] = value
    try:
        assert isinstance(decode(Swarm, bytes(body)), Swarm)
    except (CorruptDocument, SchemaTooNew) as error:
        assert "document" in str(error)  # noqa: PT017  # either outcome is right


def bomb(levels: int, where: str) -> bytes:
    """A body that nests `levels` deep."""
    opened, closed = ('{"k":', "}") if "dict" in where else ("[", "]")
    text = opened * levels + "1" + closed * levels
    field = {"known": "metadata", "unknown": "later"}[where.split(maxsplit=1)[0]]
    tag = ',"t":{"$tuple":[]}' if "tagged" in where else ""
    return f'{{"__version":2,"{field}":{{"v":{text}{tag}}}}}'.encode()


@pytest.mark.parametrize("where", ["known list", "known dict", "unknown list", "unknown dict tagged"])
@pytest.mark.parametrize("levels", [200, 2_000, 200_000])
def test_a_bomb_of_brackets_is_corruption(where: str, levels: int) -> None:
    """Nesting that Holdfast never writes is refused without exhausting the stack."""
    with pytest.raises(CorruptDocument, match=r"swarm:s1 .*(nests deeper|too deep)"):
        decode(Swarm, bomb(levels, where), what="swarm:s1")


class Chain(Part, frozen=True, kw_only=True):
    nodes: tuple[Chain, ...] = ()


class Chained(Document, frozen=True, kw_only=True):
    root: Chain


def chain(levels: int) -> bytes:
    """A body of parts within parts."""
    return ('{"__version":1,"root":' + '{"nodes":[' * levels + "]}" * levels + "}").encode()


def test_a_bomb_of_typed_parts_is_corruption() -> None:
    """Parts that hold their own class cannot exhaust the stack either; what can still be read is not stored again."""
    with pytest.raises(CorruptDocument, match="nests deeper"):
        decode(Chained, chain(3_000))
    with pytest.raises(DocumentTooDeep, match=r"^root\.nodes\[0\]\.nodes"):
        encode(decode(Chained, chain(200)), Limits(depth_max=128))


def at_depth(levels: int, call: Callable[[], object]) -> object:
    """Call something from `levels` frames further down."""
    return call() if levels == 0 else at_depth(levels - 1, call)


def test_a_caller_without_stack_does_not_make_a_document_corrupt() -> None:
    """A sound document read at the end of the caller's own recursion is a RecursionError, not corruption."""
    value: Any = 1
    for _ in range(60):
        value = [value]
    body = encode(Swarm(metadata={"v": value}, extra=Swarm().extra))
    frames = len(list(iter_frames()))
    with pytest.raises(RecursionError):
        at_depth(sys.getrecursionlimit() - frames - 40, lambda: decode(Swarm, body))
    assert decode(Swarm, body).metadata == {"v": value}


def iter_frames() -> Any:
    """The frames of the stack, from here up."""
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


class OldStep(Part, frozen=True, kw_only=True):
    name: str


class OldReport(Document, frozen=True, kw_only=True):
    """What an older server knows of a report."""

    title: str
    steps: list[OldStep] = msgspec.field(default_factory=list)
    by_name: dict[str, OldStep] = msgspec.field(default_factory=dict)


class NewStep(Part, frozen=True, kw_only=True):
    name: str
    cost: Decimal | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    note: Any = None


class NewReport(Document, frozen=True, kw_only=True, rename={"due_at": "dueAt"}):
    """The same report on a newer server: more fields, same schema number."""

    title: str
    steps: list[NewStep] = msgspec.field(default_factory=list)
    by_name: dict[str, NewStep] = msgspec.field(default_factory=dict)
    due_at: dt.datetime | None = None
    summary: NewStep | None = None
    ratio: float = 0.0
    free: Any = None


names = st.text("abc$", max_size=4)
new_steps = st.builds(
    NewStep,
    name=names,
    cost=st.none() | st.decimals(allow_nan=False),
    labels=st.dictionaries(names, names, max_size=2),
    note=st.none() | st.tuples(st.integers(), st.dictionaries(names, st.binary(max_size=2), max_size=2)),
)
new_reports = st.builds(
    NewReport,
    title=names,
    steps=st.lists(new_steps, max_size=2),
    by_name=st.dictionaries(names, new_steps, max_size=2),
    due_at=st.none() | st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    summary=st.none() | new_steps,
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    free=st.none() | st.frozensets(st.integers(), max_size=3),
)


@settings(deadline=None, max_examples=200)
@given(report=new_reports)
def test_an_older_server_loses_nothing_it_does_not_know(report: NewReport) -> None:
    """Read and stored again by a server without the new fields, at any level, the report is whole."""
    older = decode(OldReport, encode(report))
    assert decode(NewReport, encode(older)) == report


def test_unknown_fields_are_kept_beside_their_struct() -> None:
    """Each struct has those of its own level, as free values, and the order of fields is kept."""
    body = (
        b'{"__version":1,"title":"t","steps":[{"name":"a","cost":"1.5","when":{"$date":"2025-06-01"}}],'
        b'"by_name":{},"zeta":1,"alpha":[{"k":null}]}'
    )
    report = decode(OldReport, body)
    assert report.extra == {"zeta": 1, "alpha": [{"k": None}]}
    assert report.steps[0].extra == {"cost": "1.5", "when": dt.date(2025, 6, 1)}
    assert encode(report) == body


def test_a_change_by_an_older_server_keeps_unknown_fields() -> None:
    """Replacing a known field carries the unknown ones along."""
    report = decode(OldReport, encode(NewReport(title="t", ratio=0.5, steps=[NewStep(name="a", cost=Decimal(1))])))
    changed = msgspec.structs.replace(report, title="new")
    again = decode(NewReport, encode(changed))
    assert (again.title, again.ratio, again.steps[0].cost) == ("new", 0.5, Decimal(1))


def test_stored_names_that_look_like_ours_are_unknown_fields_too() -> None:
    """A stored field called extra, or even $extra, is kept like any other."""
    body = b'{"__version":1,"title":"t","steps":[],"by_name":{},"extra":1,"$extra":{"a":2}}'
    report = decode(OldReport, body)
    assert report.extra == {"extra": 1, "$extra": {"a": 2}}
    assert encode(report) == body


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    """Duplicate keys, which JSON allows, are no corruption."""
    assert decode(Swarm, b'{"__version":2,"goal":"a","goal":"b"}').goal == "b"


def test_absent_fields_read_as_their_defaults() -> None:
    """A row written by hand may hold next to nothing."""
    assert decode(Swarm, b'{"__version":2}') == Swarm()
    assert decode(Swarm, b' {"goal": null, "__version": 2}\n') == Swarm()


def test_reading_takes_any_order_and_spacing_of_fields() -> None:
    """The fast way through decode, which knows encode's own bytes, and the long way agree."""
    swarm = Swarm(goal="g", blackboard=[BlackboardItem(id="b", value={"a": [1]})])
    stored = msgspec.json.decode(encode(swarm))
    reordered = dict(reversed(stored.items()))
    assert decode(Swarm, msgspec.json.format(msgspec.json.encode(reordered))) == swarm
    variables = {"v": ContextVariable(key="v", value=Decimal(1))}
    snapshot = RunContextSnapshot(run_id="r", routine_id="t", sequence=1, variables=variables)
    assert decode(RunContextSnapshot, b" " + encode(snapshot)) == snapshot
