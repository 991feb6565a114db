"""The context of a run: reading, writing, inheriting, exporting, and what is to be stored of it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_runs import NOON, RUN_ID, Wall, free_values, hybrid_clock, in_order, keys
from fix_secrets import known_keys
from holdfast import (
    ConflictStrategy,
    InvalidDocument,
    InvalidKey,
    LimitExceeded,
    ReadOnlyVariable,
    RunContext,
    VariableConflict,
)
from holdfast.documents import (
    ContextChange,
    ContextVariable,
    ExportDeclaration,
    FrozenDict,
    FrozenList,
    Run,
    SnapshotSummary,
    encode,
    freeze,
    thaw,
)
from holdfast.entry import MISSING
from holdfast.errors import SettingsError
from holdfast.run_context import context as contexts
from holdfast.run_context import inheriting
from holdfast.run_context import limits as limits_of_runs
from holdfast.run_context.changes import ContextState, applied
from holdfast.run_context.exports import Terms
from holdfast.run_context.hybrid_clock import HybridClock, HybridTime, hybrid_time
from holdfast.run_context.limits import AROUND_BYTES_MAX, RunLimits, Sizes
from holdfast.run_context.snapshots import base_of, delta_of, size_of
from holdfast.run_context.spilling import BYTES_MAX
from holdfast.run_context.tracked import TrackedState


def begun(run_id: str = RUN_ID, **options: Any) -> RunContext:
    """A context that holds nothing but an input."""
    return RunContext.begin(run_id, "search", hybrid_clock(), {"query": ["bicycle"]}, **options)


def taken(context: RunContext) -> ContextChange:
    """What was written since the last time."""
    change = context.take_changes()
    assert change is not None
    return change


def test_it_is_a_mapping_of_values() -> None:
    """Name to value, as a dict would be; values come back frozen."""
    context = begun()
    context["a"], context["b"] = [1, {"c": 2}], None
    assert (context["a"], len(context), list(context), "b" in context) == ([1, {"c": 2}], 2, ["a", "b"], True)
    assert (type(context["a"]), type(context["a"][1])) == (FrozenList, FrozenDict)
    context.update(b=3)
    assert dict(context) == {"a": [1, {"c": 2}], "b": 3}
    del context["a"]
    assert context.pop("b") == 3
    assert not context
    for missing in (lambda: context["a"], lambda: context.variable("a"), lambda: context.pop("a")):
        with pytest.raises(KeyError):
            missing()


def test_a_variable_tells_of_its_last_write() -> None:
    """Source, time, clock, sensitivity; the sensitivity stays when only the value is written anew."""
    context = begun(keys=known_keys())
    context.set("key", "hush", source="user", sensitivity="secret")
    first = context.variable("key")
    assert (first.source, first.sensitivity, first.mutable) == ("user", "secret", True)
    assert first.timestamp is not None
    context["key"] = "still"
    second = context.variable("key")
    assert (second.source, second.sensitivity) == ("step", "secret")
    assert second.clock > first.clock
    assert (time := hybrid_time(second.clock)) is not None
    assert second.timestamp == time.as_datetime()


def test_values_are_in_no_text_of_the_context() -> None:
    """They may be secret, and texts go to logs."""
    context = begun()
    context["password"] = "hush"
    context.intermediate["token"] = "hush"
    assert "hush" not in repr(context) + repr(context.intermediate)


@pytest.mark.parametrize(
    ("options", "word"), [({"source": "elf"}, "elf"), ({"sensitivity": "odd"}, "odd"), ({"source": "parent"}, "parent")]
)
def test_a_word_that_is_none_is_refused(options: dict[str, str], word: str) -> None:
    """Nothing was written; the source parent belongs to what is inherited."""
    context = begun()
    with pytest.raises(ValueError, match=word):
        context.set("a", 1, **options)  # type: ignore[arg-type]
    assert (dict(context), context.take_changes()) == ({}, None)


def test_what_is_not_mutable_stays() -> None:
    """A typed error names run and variable."""
    context = begun()
    context.set("a", 1, mutable=False)
    attempts: list[Callable[[], object]] = [lambda: context.set("a", 2), lambda: context.pop("a"), context.clear]
    for attempt in attempts:
        with pytest.raises(ReadOnlyVariable) as caught:
            attempt()
        assert (caught.value.run_id, caught.value.variable) == (RUN_ID, "a")
    assert context["a"] == 1


def test_inputs_cannot_change() -> None:
    """Neither through the context nor through what it was given."""
    given_inputs = {"query": ["bicycle"]}
    context = RunContext.begin("r", "q", hybrid_clock(), given_inputs)
    given_inputs["query"].append("pump")
    assert context.inputs == {"query": ["bicycle"]}
    with pytest.raises(TypeError):
        context.inputs["query"] = 1  # type: ignore[index]


def test_a_child_inherits_read_only_copies() -> None:
    """From the parent, of the parent's time; writing one makes it the child's own."""
    parent = begun()
    parent.set("budget", 5, source="user", sensitivity="confidential")
    child = parent.create_child({"page": 1}, routine_id="fetch")
    assert (child.run_id, child.parent_run_id, child.routine_id, child.depth) == ("run1.1", RUN_ID, "fetch", 1)
    copy, original = child.variable("budget"), parent.variable("budget")
    assert (copy.source, copy.mutable, copy.sensitivity) == ("parent", False, "confidential")
    assert (copy.value, copy.timestamp, copy.clock) == (original.value, original.timestamp, original.clock)
    child["budget"] = 6
    own = child.variable("budget")
    assert (own.source, own.mutable, own.value, parent["budget"]) == ("step", True, 6, 5)
    assert own.clock > original.clock
    assert (child.inputs, dict(parent.create_child({}))) == ({"page": 1}, {"budget": 5})


def test_what_a_child_begins_with_is_no_change() -> None:
    """It is in its first base; the parent has none either."""
    parent = begun()
    parent["a"] = 1
    parent.take_changes()
    child = parent.create_child({})
    assert (child.take_changes(), parent.take_changes(), parent.children) == (None, None, 1)


def test_inheriting_later_takes_what_is_new() -> None:
    """The child's own variables stay; what did not change is no change."""
    parent = begun()
    parent["a"], parent["b"] = 1, 1
    child = parent.create_child({})
    child["b"] = "own"
    child.take_changes()
    child.inherit_from_parent(parent)
    assert child.take_changes() is None
    parent["a"], parent["b"], parent["c"] = 2, 2, 2
    child.inherit_from_parent(parent)
    assert dict(child) == {"a": 2, "b": "own", "c": 2}
    assert list(taken(child).variables) == ["a", "c"]
    assert child.variable("c").source == "parent"


def test_a_grandchild_cannot_pass_for_an_owner() -> None:
    """What a parent set with mutable=False is read-only below, and can be made a child's own."""
    parent = begun()
    parent.set("rule", 1, mutable=False)
    grandchild = parent.create_child({}).create_child({})
    assert (grandchild.variable("rule").source, grandchild.run_id, grandchild.depth) == ("parent", "run1.1.1", 2)
    grandchild["rule"] = 2
    assert parent["rule"] == 1


moves = st.tuples(st.sampled_from(["set", "delete", "inherit", "intermediate", "thaw"]), keys, free_values)


@settings(max_examples=200)
@given(st.lists(moves, max_size=6), st.lists(st.tuples(st.integers(0, 2), moves), max_size=12))
def test_no_value_of_a_child_is_reached_from_parent_or_sibling(
    before: list[tuple[str, str, Any]], after: list[tuple[int, tuple[str, str, Any]]]
) -> None:
    """Whatever one of them does, the others read what they read before."""
    parent = begun()
    for move in before:
        act(parent, parent, move)
    family = [parent, parent.create_child({}), parent.create_child({})]
    for who, move in after:
        others = [each for each in family if each is not family[who]]
        seen = [(thaw(dict(each)), thaw(dict(each.intermediate)), each.state) for each in others]
        act(family[who], parent, move)
        assert seen == [(dict(each), dict(each.intermediate), each.state) for each in others]


def act(context: RunContext, parent: RunContext, move: tuple[str, str, Any]) -> None:
    """One thing that a run may do, and then change the very objects it gave and got."""
    how, key, value = move
    target: MutableMapping[str, Any] = context.intermediate if how == "intermediate" else context
    if how == "delete":
        target.pop(key, None)
    elif how == "inherit":
        context.inherit_from_parent(parent)
    else:
        target[key] = value = thaw(value)
        spoil(value)
    for each in context.values():
        spoil(each)


def spoil(value: Any) -> None:
    """Change a value in place, as deep as it lets itself be changed."""
    if isinstance(value, list):
        for each in value:
            spoil(each)
        attempt(lambda: value.append("spoilt"))
    elif isinstance(value, dict):
        for each in value.values():
            spoil(each)
        attempt(lambda: value.update(spoilt=1))


def attempt(change: Callable[[], object]) -> None:
    try:
        change()
    except TypeError as error:
        assert "cannot change" in str(error)  # noqa: PT017 - what was given is changed, what was got refuses


@pytest.mark.parametrize("mutant", ["freeze", "observe", "inherited"])
def test_what_keeps_contexts_apart(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: inputs as they were given, clocks that do not look at what they replace, copies that are owned."""
    if mutant == "freeze":
        monkeypatch.setattr(contexts, "freeze", lambda value: value)
    elif mutant == "observe":
        monkeypatch.setattr(HybridClock, "observe", lambda *_: True)
    else:
        monkeypatch.setattr(inheriting, "inherited", lambda variable: variable)
    failing = {
        "freeze": test_inputs_cannot_change,
        "observe": test_a_write_is_later_than_what_it_replaces,
        "inherited": test_a_child_inherits_read_only_copies,
    }
    with pytest.raises((AssertionError, InvalidDocument)):  # what is not frozen cannot even be stored
        failing[mutant]()


def test_what_cannot_be_frozen_is_refused() -> None:
    """An object with a state of its own would be shared; the path says where it is."""
    context = begun()
    with pytest.raises(InvalidDocument) as caught:
        context["a"] = {"b": [object()]}
    assert caught.value.path == "variables.a.value.b[0]"
    with pytest.raises(InvalidDocument, match="NUL"):
        context.intermediate["x"] = "\0"
    with pytest.raises(InvalidDocument):
        context[1] = 2  # type: ignore[index]
    with pytest.raises(InvalidDocument):
        context.create_child({"a": object()})
    assert (dict(context), dict(context.intermediate), context.take_changes(), context.children) == ({}, {}, None, 0)


def test_exports_are_declared() -> None:
    """With the variable's sensitivity; a variable that is gone is exported no more."""
    context = begun(terms=Terms({"round": round}))
    context.set("result", 1, sensitivity="confidential")
    context.mark_for_export("result", "blackboard", transformation="round")
    declared = ExportDeclaration(
        key="result", destination="blackboard", sensitivity="confidential", transformation="round"
    )
    assert context.exports == {"result": [declared]}
    context.mark_for_export("result", "external_system", exporter="crm")
    context.mark_for_export("result", "external_system", exporter="archive")
    context.mark_for_export("result", "blackboard")
    assert [(each.destination, each.exporter) for each in context.exports["result"]] == [
        ("external_system", "crm"),
        ("external_system", "archive"),
        ("blackboard", None),
    ]
    with pytest.raises(KeyError):
        context.mark_for_export("other", "blackboard")
    with pytest.raises(ValueError, match="moon"):
        context.mark_for_export("result", "moon")
    with pytest.raises(SettingsError, match="'halve'"):
        context.mark_for_export("result", "blackboard", transformation="halve")
    for place, exporter in (("external_system", None), ("blackboard", "crm")):
        with pytest.raises(SettingsError, match="exporter"):
            context.mark_for_export("result", place, exporter=exporter)
    with pytest.raises(InvalidKey):
        context.mark_for_export("result", "external_system", exporter="a/b")
    taken(context)
    del context["result"]
    assert context.exports == {}
    assert list(taken(context).removed_exports) == ["result"]


def test_a_declared_export_can_be_taken_back() -> None:
    """For one destination or all; what is left of it, and that nothing is, is stored."""
    context = begun()
    context["result"] = 1
    context.mark_for_export("result", "blackboard")
    for exporter in ("crm", "archive"):
        context.mark_for_export("result", "external_system", exporter=exporter)
    taken(context)
    context.unmark_export("result", "persistent_store")
    context.unmark_export("other")
    assert context.take_changes() is None
    context.unmark_export("result", "external_system")
    assert [each.destination for each in taken(context).exports["result"]] == ["blackboard"]
    with pytest.raises(ValueError, match="moon"):
        context.unmark_export("result", "moon")
    context.unmark_export("result")
    assert taken(context).removed_exports == ["result"]
    assert context.exports == {}
    assert context["result"] == 1


def test_an_exporter_that_is_not_here_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is declared all the same: another server may have it. Where nobody knows which there are, nothing is said."""
    for exporters, warned in ((frozenset({"crm"}), True), (frozenset({"cmr"}), False), (None, False)):
        context = begun(terms=Terms(exporters=exporters))
        context["result"] = 1
        caplog.clear()
        context.mark_for_export("result", "external_system", exporter="cmr")
        assert ("by cmr, which this server has not" in caplog.text) == warned
        assert [*context.exports] == ["result"]


def test_what_is_shown_cannot_be_written() -> None:
    """Variables, exports and steps are written by their methods alone."""
    context = begun()
    for shown in (context.variables, context.exports, context.steps):
        with pytest.raises(TypeError):
            shown["a"] = 1  # type: ignore[index]


def test_steps_are_entered_and_ended() -> None:
    """In order; one that is entered again begins anew."""
    context = begun()
    context.begin_step("s1")
    assert (context.current_step, context.steps["s1"].status) == ("s1", "running")
    context.end_step("s1", result={"hits": [1]})
    context.begin_step("s2")
    context.end_step("s2", "failed", error="no route")
    ended = context.steps["s1"]
    assert (ended.status, ended.result, ended.started_at is not None, ended.ended_at is not None) == (
        "completed",
        {"hits": [1]},
        True,
        True,
    )
    assert type(ended.result) is FrozenDict
    assert (context.steps["s2"].error, list(context.steps), context.current_step) == ("no route", ["s1", "s2"], "s2")
    context.begin_step("s1")
    assert (context.steps["s1"].result, context.current_step, list(context.steps)) == (None, "s1", ["s1", "s2"])
    with pytest.raises(KeyError):
        context.end_step("s3")


def test_changes_are_taken_once() -> None:
    """None if there is none; a snapshot may be asked for with or without."""
    context = begun()
    assert context.take_changes() is None
    context["a"] = 1
    context.intermediate["b"] = 2
    change = taken(context)
    assert (list(change.variables), change.intermediate, change.snapshot) == (["a"], {"b": 2}, False)
    assert context.take_changes() is None
    asked = context.take_changes(snapshot=True)
    assert asked is not None
    assert (asked.snapshot, asked.variables) == (True, {})


def test_changes_that_could_not_be_stored_come_again() -> None:
    """Before what was written since."""
    context = begun()
    context["a"], context["b"] = 1, 1
    change = context.take_changes(snapshot=True)
    assert change is not None
    context["a"] = 2
    del context["b"]
    context.put_back(change)
    again = taken(context)
    assert (again.variables["a"].value, list(again.removed_variables), again.snapshot) == (2, ["b"], True)
    assert "b" not in again.variables
    context.put_back(again)
    assert taken(context) == again


@settings(max_examples=200)
@given(st.lists(st.tuples(moves, st.booleans()), max_size=15))
def test_the_changes_taken_make_the_state(course: list[tuple[tuple[str, str, Any], bool]]) -> None:
    """Whenever they are taken: applied to the state of the begin, they are the context; also its size is known."""
    context = begun()
    kept = context.state
    for move, take in course:
        act(context, context, move)
        if take and (change := context.take_changes()) is not None:
            kept = applied(kept, change)
    if (change := context.take_changes()) is not None:
        kept = applied(kept, change)
    assert in_order(kept) == in_order(context.state)
    again = RunContext(RUN_ID, "search", hybrid_clock(), state=context.state)
    assert again._tracked.bytes == context._tracked.bytes


def test_a_state_is_shared_until_the_next_change() -> None:
    """Readers get one object, which does not follow the context."""
    context = begun()
    context["a"] = [1]
    state = context.state
    assert context.state is state
    context["a"] = [2]
    context.status = "paused"
    assert (state.variables["a"].value, state.status) == ([1], "running")
    assert (context.state.variables["a"].value, context.state.status) == ([2], "paused")


def test_a_write_is_later_than_what_it_replaces() -> None:
    """Also if that was written by a server whose clock is ahead."""
    ahead = RunContext.begin("r", "q", HybridClock(Wall(1_000.0), "ahead"), {})
    ahead["a"] = 1
    behind = RunContext("r", "q", HybridClock(Wall(990.0), "behind"), state=ahead.state)
    behind["a"] = 2
    assert behind.variable("a").clock > ahead.variable("a").clock


@pytest.mark.parametrize(
    ("limit", "setting", "attempt_one"),
    [
        ("variables", "run_variables_max", lambda context: context.set("c", 1)),
        ("bytes", "run_bytes_max", lambda context: context.set("a", "x" * 2_000)),
        ("bytes", "run_bytes_max", lambda context: context.intermediate.update(a="x" * 2_000)),
        ("bytes", "run_bytes_max", lambda context: context.end_step("s", result="x" * 2_000)),
        ("bytes", "run_bytes_max", lambda context: context.create_child({"a": "x" * 2_000})),
        ("children", "run_children_max", lambda context: [context.create_child({}) for _ in range(3)]),
        ("depth", "run_depth_max", lambda context: context.create_child({}).create_child({})),
    ],
)
def test_limits_are_named_where_they_refuse(
    limit: str, setting: str, attempt_one: Callable[[RunContext], object]
) -> None:
    """With the run, the value, what is allowed and the setting; the context is as before."""
    context = begun(limits=RunLimits(variables_max=2, bytes_max=2_000, depth_max=1, children_max=2))
    context["a"], context["b"] = 1, 2
    context.begin_step("s")
    before = context.state
    context.take_changes()
    with pytest.raises(LimitExceeded, match=setting) as caught:
        attempt_one(context)
    assert (caught.value.limit, caught.value.setting) == (limit, setting)
    assert caught.value.value > caught.value.allowed
    assert caught.value.run_id.startswith(RUN_ID)
    assert context.state == before
    assert context.take_changes() is None


def test_a_context_over_a_limit_can_shrink_and_not_grow() -> None:
    """A limit that was lowered does not keep a run from being resumed."""
    context = begun()
    context["a"], context["b"] = "x" * 500, "x" * 500
    small = RunLimits(variables_max=1, bytes_max=200)
    resumed = RunContext(RUN_ID, "q", hybrid_clock(), state=context.state, limits=small)
    resumed["a"] = "x" * 400
    with pytest.raises(LimitExceeded):
        resumed["a"] = "x" * 501
    with pytest.raises(LimitExceeded):
        resumed["c"] = ""
    del resumed["a"], resumed["b"]
    resumed["c"] = ""
    with pytest.raises(LimitExceeded):
        RunContext.begin(RUN_ID, "q", hybrid_clock(), {}, variables=context.variables, limits=small)


LONG = "https://example.org/" + "x" * 180


@pytest.mark.parametrize("section", ["variables", "intermediate"])
def test_names_of_what_nobody_has_heard_of_do_not_gather(section: str) -> None:
    """Set and removed between two writes: nothing of them is stored, however many they were."""
    context = begun(limits=RunLimits(bytes_max=2_000))
    mapping = context if section == "variables" else context.intermediate
    mapping["kept"] = 1
    taken(context)
    for number in range(100):
        mapping[f"{LONG}{number}"] = number
        del mapping[f"{LONG}{number}"]
    mapping[LONG] = 1
    del mapping["kept"]
    change = taken(context)
    assert list(getattr(change, f"removed_{section}")) == ["kept"]
    assert list(getattr(change, section)) == [LONG]
    del mapping[LONG]
    assert list(getattr(taken(context), f"removed_{section}")) == [LONG]


@pytest.mark.parametrize("section", ["variables", "intermediate"])
def test_mutant_every_removal_is_stored(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then they gather until there is no room."""
    healthy = TrackedState._collect
    monkeypatch.setattr(TrackedState, "_collect", lambda tracked, change, _=None: healthy(tracked, change))
    with pytest.raises(LimitExceeded):
        test_names_of_what_nobody_has_heard_of_do_not_gather(section)


def test_the_removal_of_what_may_be_stored_is_kept() -> None:
    """Of a change that was taken nobody knows yet; and a key that was removed before is not a new one."""
    context = begun()
    context["a"] = 1
    change = context.take_changes()
    assert change is not None
    del context["a"]
    context["a"] = 2
    del context["a"]
    context.put_back(change)
    assert list(taken(context).removed_variables) == ["a"]


def test_a_change_is_never_larger_than_a_context_may_be() -> None:
    """All that was stored may be removed at any time; there is room for as much again once that was taken."""
    limits = RunLimits(bytes_max=20_000)
    context = begun(limits=limits)
    stored, written = 0, True
    while written:
        stored += 1
        written = fits(context.intermediate, f"{LONG}{stored}")
    taken(context)
    context.intermediate.clear()
    assert not fits(context.intermediate, "x" * 10_000)
    assert len(encode(Run(routine_id="q", changes=[taken(context)]))) < limits.bytes_max + 300
    assert fits(context.intermediate, "x" * 10_000)


def test_mutant_names_of_what_is_removed_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a change can become twice as large as a context."""
    monkeypatch.setattr("holdfast.run_context.changes.name_bytes", lambda _: 0)
    with pytest.raises(AssertionError):
        test_a_change_is_never_larger_than_a_context_may_be()


def fits(mapping: MutableMapping[str, Any], key: str, value: object = 1) -> bool:
    """Whether a run takes a key."""
    try:
        mapping[key] = value
    except LimitExceeded:
        return False
    return True


def test_the_size_is_kept_and_not_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write measures what it writes, however much the context holds."""
    measured: list[int] = []
    honest = RunLimits.sizes

    def measure(self: RunLimits, **part: Any) -> Sizes:
        sizes = honest(self, **part)
        measured.append(len(sizes))
        return sizes

    context = begun()
    for number in range(300):
        context[f"v{number}"] = number
    monkeypatch.setattr(RunLimits, "sizes", measure)
    context["v7"] = 8
    assert measured == [1]


def test_the_size_is_that_of_a_base() -> None:
    """But for what stands around it: a context within its limit fits in a base."""
    context = begun()
    for number in range(300):
        context[f"v{number}"] = {"a": number}
        context.begin_step(f"s{number}")
        context.end_step(f"s{number}")
        context.intermediate[f"i{number}"] = "x"
    context.mark_for_export("v1", "blackboard")
    base = base_of(RUN_ID, Run(routine_id="q"), context.state, sequence=0, previous=None)
    assert 0 < size_of(base) - context._tracked.bytes < 400


def filled(context: RunContext) -> None:
    """Let there be no room for one byte more."""
    count = 4_096
    while count:
        if not fits(context.intermediate, "fill", context.intermediate.get("fill", "") + "x" * count):
            count //= 2


def test_a_step_that_was_begun_can_be_ended() -> None:
    """However little room there is: for that it is kept free from its begin. A result that does not fit is refused."""
    context = begun(limits=RunLimits(bytes_max=5_000))
    for step_id in "abc":
        context.begin_step(step_id)
    filled(context)
    assert not fits(context, "more", 1)
    with pytest.raises(LimitExceeded):
        context.end_step("a", result="x" * 1_000)
    assert context.steps["a"].status == "running"
    context.end_step("a")
    filled(context)
    context.end_step("b", "cancelled")
    context.end_step("c", "failed", error="LimitExceeded: run r1: 6000 bytes would be over the limit of 5000")
    filled(context)
    with pytest.raises(LimitExceeded):
        context.begin_step("d")


def test_mutant_no_room_is_kept_for_the_end_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it cannot be ended."""
    monkeypatch.setattr(limits_of_runs, "STEP_END_BYTES", 0)
    with pytest.raises(LimitExceeded, match="run_bytes_max"):
        test_a_step_that_was_begun_can_be_ended()


def largest_snapshot(*, names: str) -> int:
    """Bytes of the larger of a base and a delta of a run that is full of small things, with the longest ids."""
    longest = "\n" * 498
    limits = RunLimits(bytes_max=100_000)
    context = RunContext.begin(longest, "\n" * 512, hybrid_clock(), {}, limits=limits, parent_run_id=longest)
    context.begin_step("s" * 20_000)
    context.end_step("s" * 20_000)
    number = 0
    while fits(context.intermediate, f"{names}{number}"):
        number += 1
    newest = SnapshotSummary(sequence=1, sha256="0" * 64, variables=["x" * 1_000], more=10_000, at=NOON)
    run = Run(routine_id=context.routine_id, parent_run_id=longest, sequence=1, newest=newest)
    base = base_of(longest, run, context.state, sequence=2, previous=newest)
    before = ContextChange(intermediate={"before": "x" * (BYTES_MAX - 100)})
    delta = delta_of(longest, msgspec.structs.replace(run, changes=[before, taken(context)]))
    return max(size_of(base), size_of(delta)) - limits.bytes_max


@pytest.mark.parametrize("names", ["", "x" * 300])
def test_a_run_within_its_limit_can_be_stored(names: str) -> None:
    """As a base and as a delta: what belongs around its context has its room in a document too."""
    assert largest_snapshot(names=names) < AROUND_BYTES_MAX


def test_the_size_of_a_part_does_not_depend_on_the_others() -> None:
    """Though a lone key that begins with a dollar sign is stored with one more."""
    context = begun()
    context.intermediate["$a"] = {"$b": 1}
    alone = context._tracked.bytes
    context.intermediate["c"] = 2
    for _ in range(2):
        again = RunContext(RUN_ID, "search", hybrid_clock(), state=context.state)
        assert again._tracked.bytes == context._tracked.bytes
        context.intermediate.pop("c", None)
    assert context._tracked.bytes == alone


def test_a_run_id_leaves_room_for_its_snapshots() -> None:
    """Their ids are ids too."""
    assert begun("r" * 498).run_id == "r" * 498
    for wrong in ("r" * 499, "", "a\0"):
        with pytest.raises(InvalidKey):
            begun(wrong)
    for wrong in ("q" * 513, "", "a\0"):
        with pytest.raises(InvalidKey, match="routine id"):
            RunContext.begin(RUN_ID, wrong, hybrid_clock(), {})


def conflict(strategy: ConflictStrategy, **options: Any) -> VariableConflict:
    """The parent has 1, the child 2."""
    return VariableConflict(
        **{"variable_name": "a", "parent_value": 1, "child_value": 2, "strategy": strategy, **options}
    )


@pytest.mark.parametrize(
    ("made", "value", "needs_review"),
    [
        (conflict(ConflictStrategy.PARENT_WINS), 1, False),
        (conflict(ConflictStrategy.CHILD_WINS), 2, False),
        (conflict(ConflictStrategy.MANUAL_REVIEW), 1, True),
        (
            conflict(
                ConflictStrategy.KEEP_LATEST, parent_clock=HybridTime(1, 0, "p"), child_clock=HybridTime(2, 0, "c")
            ),
            2,
            False,
        ),
        (
            conflict(ConflictStrategy.KEEP_LATEST, parent_timestamp=hybrid_clock().now().as_datetime()),
            1,
            False,
        ),
        (
            conflict(ConflictStrategy.MERGE_OBJECTS, parent_value={"x": 1}, child_value={"y": 2}),
            {"x": 1, "y": 2},
            False,
        ),
        (conflict(ConflictStrategy.CHILD_WINS, child_value=MISSING), MISSING, False),
    ],
)
def test_a_conflict_is_resolved_in_either_context(
    made: VariableConflict,
    value: Any,
    needs_review: bool,  # noqa: FBT001
) -> None:
    """What stands is written where it is not yet; the resolution says what and why."""
    for mine in (made.parent_value, made.child_value):
        context = begun()
        if mine is not MISSING:
            context["a"] = mine
        before = context.variables.get("a")
        context.take_changes()
        (resolution,) = context.resolve_variable_conflicts([made])
        assert (resolution.variable_name, resolution.value, resolution.needs_review) == ("a", value, needs_review)
        assert resolution.reason
        assert context.get("a", MISSING) == value
        changed = context.take_changes() is not None
        assert changed == (mine != value)
        assert changed == (context.variables.get("a") != before)


def test_the_later_timestamp_stands_where_no_clock_does() -> None:
    """As the seed's conflicts have it."""
    clock = HybridClock(wall := Wall(10.0), "n")
    early = clock.now().as_datetime()
    wall.seconds = 11.0
    late = clock.now().as_datetime()
    latest = ConflictStrategy.KEEP_LATEST
    assert conflict(latest, parent_timestamp=early, child_timestamp=late).resolution().value == 2
    assert conflict(latest, parent_timestamp=late, child_timestamp=early).resolution().value == 1


def test_a_resolution_is_later_than_both_sides() -> None:
    """So it stands wherever the two meet again."""
    context = begun()
    ms = int(Wall().seconds * 1000) + 5_000
    sides = {"parent_clock": HybridTime(ms, 0, "p"), "child_clock": HybridTime(ms, 7, "c")}
    context.resolve_variable_conflicts([conflict(ConflictStrategy.CHILD_WINS, **sides)])
    assert context.variable("a").clock > sides["child_clock"].as_text()


def test_resolving_is_all_or_nothing() -> None:
    """One that would write what is not mutable refuses the others as well."""
    context = begun()
    context.set("fixed", 0, mutable=False)
    both = [
        conflict(ConflictStrategy.CHILD_WINS),
        conflict(ConflictStrategy.CHILD_WINS, variable_name="fixed"),
    ]
    with pytest.raises(ReadOnlyVariable, match="fixed"):
        context.resolve_variable_conflicts(both)
    assert dict(context) == {"fixed": 0}


def test_resolving_over_a_limit_is_nothing() -> None:
    """The first of them would have fitted."""
    context = begun(limits=RunLimits(variables_max=1))
    two = [conflict(ConflictStrategy.CHILD_WINS, variable_name=name) for name in "ab"]
    with pytest.raises(LimitExceeded):
        context.resolve_variable_conflicts(two)
    assert (dict(context), context.take_changes()) == ({}, None)


def test_a_resolved_variable_keeps_what_else_is_known_of_it() -> None:
    """Its source and sensitivity, also by words that only a newer version knows; and no export of what is gone."""
    known = ContextVariable(key="a", value=0, source="later source", sensitivity="later level")
    state = ContextState(variables=FrozenDict(a=known))
    context = RunContext(RUN_ID, "q", hybrid_clock(), state=state, keys=known_keys())  # such a word may mean a secret
    context.resolve_variable_conflicts([conflict(ConflictStrategy.CHILD_WINS)])
    assert (context["a"], context.variable("a").source) == (2, "later source")
    context["a"] = 3
    assert context.variable("a").sensitivity == "later level"
    context.mark_for_export("a", "blackboard")
    context.resolve_variable_conflicts([conflict(ConflictStrategy.CHILD_WINS, child_value=MISSING)])
    assert ("a" in context, dict(context.exports)) == (False, {})


def test_true_is_not_one() -> None:
    """A value of another type is another value."""
    context = begun()
    context["a"] = 1
    context.resolve_variable_conflicts([conflict(ConflictStrategy.CHILD_WINS, child_value=True)])
    assert context["a"] is True


def test_a_context_goes_on_with_a_state() -> None:
    """As a resumed run does."""
    context = begun()
    context["a"] = freeze({"b": 1})
    context.begin_step("s")
    resumed = RunContext(RUN_ID, "search", hybrid_clock("n2"), state=context.state, children=3)
    assert resumed.state == context.state
    assert (resumed.inputs, resumed.current_step, resumed.take_changes()) == (context.inputs, "s", None)
    assert resumed.create_child({}).run_id == "run1.4"
    assert ContextState().inputs == {}


def test_what_is_held_deeper_than_is_allowed_now_is_measured_all_the_same() -> None:
    """The limit of depth was higher when it was written: it cannot be written again, but it is not lost, and counts."""
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    state = ContextState(
        inputs=freeze({"q": deep}),
        variables={
            name: ContextVariable(key=name, value=freeze(value)) for name, value in {"a": deep, "b": "x" * 900}.items()
        },
    )
    context = RunContext(
        RUN_ID, "search", hybrid_clock(), state=state, limits=RunLimits(bytes_max=1500, value_depth_max=20)
    )
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            context["c"] = "y" * 700
    with pytest.raises(InvalidDocument):
        context["c"] = deep
    del context["a"]
    del context["b"]
    context["c"] = "y" * 700
