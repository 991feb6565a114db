"""Secret variables of a context: sealed wherever they are kept, plain where they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_runs import RUN_ID, hybrid_clock
from fix_secrets import known_keys
from holdfast import ConflictStrategy, InvalidDocument, RunContext, VariableConflict
from holdfast.documents import ContextVariable, Document, Run, Sealed, encode
from holdfast.entry import MISSING
from holdfast.errors import KeyMissing, SealBroken
from holdfast.fault_words import in_words
from holdfast.run_context import secrets as secrets_of_runs
from holdfast.run_context.differences import difference
from holdfast.run_context.hybrid_clock import HybridTime, hybrid_time
from holdfast.run_context.snapshots import UNLIMITED, base_of, delta_of
from holdfast.sensitivity.known_keys import KnownKeys

MARK = "qzvxwj"
"""In every secret of these tests, and in nothing else."""
LEVELS = ("secret", "pii")


def begun(run_id: str = RUN_ID, keys: KnownKeys | None = None, **options: Any) -> RunContext:
    """A context that can have secrets."""
    clock = hybrid_clock()
    return RunContext.begin(run_id, "search", clock, {}, keys=known_keys() if keys is None else keys, **options)


def with_secret(value: Any = f"{MARK}-1", name: str = "token", **options: Any) -> RunContext:
    """A context with a secret."""
    context = begun(**options)
    context.set(name, value, sensitivity="secret")
    return context


@pytest.mark.parametrize("level", LEVELS)
def test_a_secret_is_read_by_its_name_alone(level: str) -> None:
    """As an item and among values; the variable itself, and the state, hold it sealed."""
    context = begun()
    context.set("token", {"user": MARK, "n": (1, 2)}, sensitivity=level)
    assert context["token"] == {"user": MARK, "n": (1, 2)} == next(iter(context.values()))
    for variable in (context.variable("token"), context.variables["token"], context.state.variables["token"]):
        assert type(variable.value) is Sealed
        assert variable.sensitivity == level
    assert context.pop("token")["user"] == MARK


def test_what_is_no_secret_stays_plain() -> None:
    """Also without any key."""
    context = RunContext.begin(RUN_ID, "search", hybrid_clock(), {})
    for level in ("public", "internal", "confidential"):
        context.set("key", "shown", sensitivity=level)
        assert context.variable("key").value == "shown"


def test_a_secret_without_a_key_is_refused() -> None:
    """The error says what to set; nothing was written."""
    context = RunContext.begin(RUN_ID, "search", hybrid_clock(), {})
    with pytest.raises(KeyMissing, match="set master_keys"):
        context.set("token", "hush", sensitivity="secret")
    assert (dict(context), context.take_changes()) == ({}, None)


def test_a_variable_becomes_secret_and_public_again() -> None:
    """Each write is as its sensitivity says; of a plain value that was not stored yet nothing is left."""
    context = begun()
    context["key"] = f"{MARK}-1"
    context.set("key", f"{MARK}-1", sensitivity="secret")
    change = context.take_changes()
    assert MARK not in f"{change!r}"
    context["key"] = f"{MARK}-2"
    assert type(context.variable("key").value) is Sealed
    context.set("key", "shown", sensitivity="public")
    assert context.variable("key").value == "shown"


def test_a_sealed_value_is_written_nowhere_else() -> None:
    """Taken out of one variable it could be opened in no other; it is refused where that is noticed first."""
    context = with_secret()
    for level in ("secret", "public"):
        with pytest.raises(InvalidDocument, match="read it by its name"):
            context.set("copy", context.variable("token").value, sensitivity=level)


@pytest.mark.parametrize("what", ["variable", "run", "write"])
def test_ciphertext_that_was_moved_is_refused(what: str) -> None:
    """To another variable, another run, or back in the place of a later write."""
    context = with_secret()
    earlier = context.variable("token")
    context["token"] = f"{MARK}-2"
    now, run_id, name = context.state, RUN_ID, "token"
    if what == "variable":
        name = "other"
        moved = {"other": msgspec.structs.replace(now.variables["token"], key="other")}
    elif what == "run":
        run_id, moved = "run2", dict(now.variables)
    else:
        moved = {"token": msgspec.structs.replace(now.variables["token"], value=earlier.value)}
    state = msgspec.structs.replace(now, variables=moved)
    reader = RunContext(run_id, "search", hybrid_clock(), state=state, keys=known_keys())
    with pytest.raises(SealBroken, match=f"run:{run_id}, '{name}'"):
        _ = reader[name]


def test_a_child_reads_what_it_inherits() -> None:
    """Sealed for the child: the same ciphertext is refused there."""
    parent = with_secret()
    child = parent.create_child({})
    assert child["token"] == f"{MARK}-1"
    assert child.create_child({})["token"] == f"{MARK}-1"
    ours, theirs = parent.variable("token"), child.variable("token")
    assert (ours.clock, ours.sensitivity) == (theirs.clock, theirs.sensitivity)
    assert ours.value != theirs.value
    child._draft.variables["token"] = msgspec.structs.replace(theirs, value=ours.value)
    with pytest.raises(SealBroken):
        _ = child["token"]


def test_inheriting_again_takes_what_is_new_alone() -> None:
    """Sealed anew each time, the same write would look like another."""
    parent = with_secret()
    child = parent.create_child({})
    child.inherit_from_parent(parent)
    assert child.take_changes() is None
    parent["token"] = f"{MARK}-2"
    child.inherit_from_parent(parent)
    assert child["token"] == f"{MARK}-2"
    assert child.take_changes() is not None


def test_adopting_a_variable_of_another_run() -> None:
    """For whoever merges exports: it can be opened here, in its name and with its clock; nothing is written."""
    child, parent = with_secret(run_id="child"), begun()
    ours = parent.adopt(child.variable("token"), "child")
    assert (ours.clock, ours.key, type(ours.value)) == (child.variable("token").clock, "token", Sealed)
    assert secrets_of_runs.opened(ours, RUN_ID, known_keys()) == f"{MARK}-1"
    assert parent.take_changes() is None
    with pytest.raises(SealBroken):
        parent.adopt(child.variable("token"), "another")
    plain = ContextVariable(key="a", value=1)
    assert parent.adopt(plain, "child") is plain


def sides(parent: RunContext, child: RunContext, strategy: ConflictStrategy) -> VariableConflict:
    """A conflict about the variable "token"."""
    ours, theirs = parent.variable("token"), parent.adopt(child.variable("token"), child.run_id)
    clocks = [hybrid_time(each.clock) for each in (ours, theirs)]
    return VariableConflict(
        variable_name="token",
        parent_value=ours.value,
        child_value=theirs.value,
        parent_clock=clocks[0],
        child_clock=clocks[1],
        strategy=strategy,
    )


@pytest.mark.parametrize(
    ("strategy", "stands"),
    [
        (ConflictStrategy.PARENT_WINS, {"a": MARK, "b": {"c": 1}}),
        (ConflictStrategy.CHILD_WINS, {"b": {"d": MARK}}),
        (ConflictStrategy.MERGE_OBJECTS, {"a": MARK, "b": {"c": 1, "d": MARK}}),
        (ConflictStrategy.MANUAL_REVIEW, {"a": MARK, "b": {"c": 1}}),
    ],
)
def test_conflicts_are_decided_by_what_is_in_them(strategy: ConflictStrategy, stands: Any) -> None:
    """The resolution tells what stands by its sealed value, and the run can open it."""
    parent, child = with_secret({"a": MARK, "b": {"c": 1}}), with_secret({"b": {"d": MARK}}, run_id="child")
    before = parent.variable("token")
    (resolution,) = parent.resolve_variable_conflicts([sides(parent, child, strategy)])
    assert parent["token"] == stands
    assert MARK not in repr(resolution)
    assert resolution.value == parent.variable("token").value
    assert (parent.variable("token") == before) == (stands == {"a": MARK, "b": {"c": 1}})


def test_two_secrets_that_hold_the_same_are_no_write() -> None:
    """Though their ciphertexts differ."""
    parent, child = with_secret(), with_secret(run_id="child")
    parent.take_changes()
    parent.resolve_variable_conflicts([sides(parent, child, ConflictStrategy.CHILD_WINS)])
    assert parent.take_changes() is None


def test_what_comes_of_a_secret_is_secret() -> None:
    """Also where the run has none of that name, or one that was not: a merge must not make a secret public."""
    child = with_secret({"b": MARK}, run_id="child")
    for holds in (None, {"a": "shown"}):
        parent = begun()
        theirs = parent.adopt(child.variable("token"), "child")
        if holds is not None:
            parent["token"] = holds
        conflict = VariableConflict(
            variable_name="token",
            parent_value=MISSING if holds is None else parent["token"],
            child_value=theirs.value,
            child_clock=hybrid_time(theirs.clock),
            strategy=ConflictStrategy.CHILD_WINS if holds is None else ConflictStrategy.MERGE_OBJECTS,
        )
        (resolution,) = parent.resolve_variable_conflicts([conflict])
        assert parent["token"] == {**(holds or {}), "b": MARK}
        assert (parent.variable("token").sensitivity, type(resolution.value)) == ("secret", Sealed)


def test_what_stands_and_was_no_secret_stays_as_it_is() -> None:
    """The parent's plain value is not made secret by a secret that loses."""
    child, parent = with_secret(run_id="child"), begun()
    parent["token"] = "shown"
    theirs = parent.adopt(child.variable("token"), "child")
    conflict = VariableConflict(
        variable_name="token", parent_value="shown", child_value=theirs.value, child_clock=hybrid_time(theirs.clock)
    )
    (resolution,) = parent.resolve_variable_conflicts([conflict])
    assert (resolution.value, parent.variable("token").value) == ("shown", "shown")


def test_a_sealed_side_needs_its_clock() -> None:
    """Another write's ciphertext is refused, and nothing is written."""
    parent, child = with_secret(), with_secret(f"{MARK}-2", run_id="child")
    parent.take_changes()
    conflict = sides(parent, child, ConflictStrategy.CHILD_WINS)
    for clock in (None, HybridTime(1, 0, "n")):
        with pytest.raises(SealBroken):
            parent.resolve_variable_conflicts([msgspec.structs.replace(conflict, child_clock=clock)])
    assert parent.take_changes() is None


def test_an_ancestor_that_is_sealed_is_not_known() -> None:
    """Nothing says which write it is of."""
    parent, child = with_secret({"a": 1}), with_secret({"b": MARK}, run_id="child")
    conflict = msgspec.structs.replace(
        sides(parent, child, ConflictStrategy.MERGE_OBJECTS), ancestor=parent.variable("token").value
    )
    parent.resolve_variable_conflicts([conflict])
    assert parent["token"] == {"a": 1, "b": MARK}


def test_errors_are_masked_where_they_are_recorded() -> None:
    """Before they are cut, so that no beginning of a secret is left at the end."""
    long_ = MARK * 100
    context = with_secret({"password": f"{MARK}-word", "key": long_})
    context.begin_step("one")
    context.end_step("one", "failed", error=f"401: {MARK}-word is wrong")
    assert context.steps["one"].error == "401: *** is wrong"
    fault = ValueError("x" * 1_900 + f" {long_} {MARK}-word")
    assert MARK not in in_words(fault, context.masked)
    assert in_words(f"no {MARK}-word", context.masked) == "no ***"
    child = begun("child", keys=context._keys)
    assert MARK not in child.masked(f"{MARK}-word"), "it is of the process, not of one run"


texts = st.text("ab\"\\'é", max_size=3).map(lambda text: f"{text}{MARK}{text}")
trees = st.recursive(
    texts | texts.map(str.encode),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(texts | st.just("$tag"), inner, min_size=1, max_size=2)
        | st.tuples(inner)
        | st.frozensets(texts, min_size=1, max_size=2)
    ),
    max_leaves=6,
)
secrets = st.dictionaries(st.sampled_from("abc"), st.tuples(trees, st.sampled_from(LEVELS)), min_size=1)


def family(levels: list[dict[str, tuple[Any, str]]]) -> list[RunContext]:
    """Runs below one another, each with secrets of its own beside those it inherits."""
    runs: list[RunContext] = []
    for number, each in enumerate(levels):
        context = runs[-1].create_child({}, run_id=f"r{number}") if runs else begun("r0")
        for name, (value, level) in each.items():
            context.set(name, value, sensitivity=level)
        runs.append(context)
    for context in runs:
        context.begin_step("one")
        quoted = " and ".join(f"{value!r}" for value in context.values())
        context.end_step("one", "failed", error=in_words(ValueError(quoted), context.masked))
    return runs


def told_of(context: RunContext) -> Iterator[str]:
    """All that is kept or shown of a run."""
    before = begun(context.run_id).state
    row = Run(routine_id="search")
    change = context.take_changes()
    assert change is not None
    changed = msgspec.structs.replace(row, changes=[change])
    base = base_of(context.run_id, row, context.state, sequence=0, previous=None)
    documents: list[Document] = [changed, base, delta_of(context.run_id, changed)]
    for document in documents:
        yield encode(document, UNLIMITED).decode()
        yield repr(document)
    yield repr(context)
    yield repr(context.state)
    yield repr(difference(before, context.state))
    yield repr(context.variables)
    yield repr([context.adopt(each, context.run_id) for each in context.variables.values()])


@given(st.lists(secrets, min_size=1, max_size=3))
def test_no_secret_is_in_anything_that_is_kept_or_shown(levels: list[dict[str, tuple[Any, str]]]) -> None:
    """Rows, changes, deltas, bases, differences, texts of errors and reprs of whole families of runs."""
    for context in family(levels):
        assert all(MARK in repr(value) for value in context.values())
        for told in told_of(context):
            assert MARK not in told


def test_without_sealing_secrets_are_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: no variable counts as secret. The same search finds it in each document."""
    monkeypatch.setattr(secrets_of_runs, "is_secret", lambda *_: False)
    (context,) = family([{"a": (f"{MARK}-1", "secret")}])
    assert sum(MARK in told for told in told_of(context)) >= 8


def test_what_can_change_is_masked_as_it_was_sealed() -> None:
    """A set, or a mapping of another class, is what it becomes when it is frozen."""
    context = with_secret([{f"{MARK}-1"}, bytearray(f"{MARK}-2".encode())])
    assert context.masked(f"{MARK}-1 and {MARK}-2") == "*** and ***"


def test_a_fork_moves_all_of_a_state() -> None:
    """Each variable is sealed for the new run; others are shared."""
    context = with_secret()
    context["plain"] = ["shared"]
    state = secrets_of_runs.moved_state(context.state, RUN_ID, "fork", known_keys())
    fork = RunContext("fork", "search", hybrid_clock(), state=state, keys=known_keys())
    assert fork["token"] == f"{MARK}-1"
    assert state.variables["plain"] is context.state.variables["plain"]
    assert list(secrets_of_runs.key_ids(state.variables.values())) == ["k1"]
