"""Snapshots of runs: checksums, ids, when changes become one, and what the row says of it."""

from __future__ import annotations

import hashlib
import random
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_runs import NOON, RUN_ID, KeptRun, changes, in_order, stored_bytes
from holdfast.documents import (
    ContextChange,
    ContextVariable,
    Limits,
    Run,
    RunContextSnapshot,
    StepRecord,
    decode,
    encode,
)
from holdfast.errors import SchemaTooNew
from holdfast.keys import Key
from holdfast.run_context.changes import ContextState, Draft
from holdfast.run_context.snapshots import (
    NAMES_BYTES_MAX,
    NAMES_MAX,
    base_id,
    base_is_due,
    base_of,
    delta_of,
    id_of,
    sealed,
    snapshot_id,
    snapshot_in,
    state_of,
    summary_of,
)
from holdfast.run_context.spilling import BYTES_MAX, spill_run
from holdfast.write_behind.applying import apply
from holdfast.write_behind.checking import checked
from holdfast.write_behind.operations import Append

KEY = Key("run", RUN_ID)
ENDED = ContextChange(at=NOON, steps=[StepRecord(step_id="s", status="completed")])


def written(value: object) -> ContextChange:
    return ContextChange(at=NOON, variables={"a": ContextVariable(key="a", value=value)})


def test_ids_are_in_the_order_of_numbers() -> None:
    """A base stands behind the delta of its number."""
    assert (snapshot_id("r/x", 7), base_id("r/x", 7)) == ("r/x/00000007", "r/x/00000007.base")
    assert snapshot_id("r", 99) < base_id("r", 99) < snapshot_id("r", 100)


@given(st.lists(changes(), max_size=5))
def test_a_delta_and_a_base_hold_what_was_put_in(several: list[ContextChange]) -> None:
    """From and to state, and intact after the way through their bytes."""
    delta = delta_of(RUN_ID, Run(routine_id="q", changes=several))
    read = snapshot_in(stored_bytes(delta))
    assert read == delta
    draft = Draft()
    draft.apply_delta(read)
    state = draft.state()
    base = base_of(RUN_ID, Run(routine_id="q"), state, sequence=3, previous=None)
    found = snapshot_in(stored_bytes(base))
    assert found is not None
    assert in_order(state_of(found)) == in_order(state)
    assert (id_of(delta), id_of(base)) == ("run1/00000001", "run1/00000003.base")


@settings(max_examples=300)
@given(st.lists(changes(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_no_flipped_bit_passes_for_what_was_sealed(several: list[ContextChange], rnd: random.Random) -> None:
    """Wherever it is."""
    snapshot = delta_of(RUN_ID, Run(routine_id="q", changes=several))
    body = bytearray(stored_bytes(snapshot))
    body[rnd.randrange(len(body))] ^= 1 << rnd.randrange(8)
    assert snapshot_in(bytes(body)) is None


def test_a_newer_schema_is_told_from_a_flipped_bit() -> None:
    """By the bytes: one is intact, and an update of this server reads it; the other is damage."""
    body = stored_bytes(sealed(RunContextSnapshot(run_id="r", routine_id="q", sequence=1)))
    assert snapshot_in(body) is not None
    flipped = body.replace(b'"__version":2', b'"__version":3')
    assert snapshot_in(flipped) is None
    with pytest.raises(SchemaTooNew):
        snapshot_in(sealed_again(flipped))


def sealed_again(body: bytes) -> bytes:
    """The body of a snapshot, as another program would write it, with its checksum: of all but its digits."""
    before, after = re.split(rb'(?<="sha256":")[0-9a-f]*(?=")', body, maxsplit=1)
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


ENDLESS = b'{"__version":2,"sha256":"","inputs":' + b'{"a":' * 100_000


@given(st.binary(max_size=20) | st.sampled_from([b"[]", b"{}", b'{"sha256":1}', b"[" * 100_000, sealed_again(ENDLESS)]))
def test_any_bytes_are_no_snapshot(body: bytes) -> None:
    """Nothing is raised for what is no JSON, or nests without end, be it sealed."""
    assert snapshot_in(body) is None


def test_a_text_that_can_be_read_and_not_written_is_no_error() -> None:
    """A flip can make half a surrogate pair, or a NUL, of an escape."""
    snapshot = sealed(RunContextSnapshot(run_id="r", routine_id="q", sequence=1, inputs={"a": "\\u0041"}))
    body = stored_bytes(snapshot).replace(b"\\\\u0041", b"\\u0000")
    assert snapshot_in(body) is None


def test_a_snapshot_without_a_checksum_is_not_intact() -> None:
    """What schema 1 left does not pass for a part of a chain."""
    assert snapshot_in(stored_bytes(RunContextSnapshot(run_id="r", routine_id="q", sequence=1))) is None


def test_unknown_fields_count() -> None:
    """A newer server's, wherever it puts them: this one keeps them, and tells when they are damaged."""
    body = stored_bytes(RunContextSnapshot(run_id="r", routine_id="q", sequence=1))
    newer = sealed_again(body.replace(b'"runId"', b'"later":{"a":1},"runId"'))
    found = snapshot_in(newer)
    assert found is not None
    assert found.extra == {"later": {"a": 1}}
    assert snapshot_in(newer.replace(b'"a":1', b'"a":2')) is None


def test_the_checksum_is_of_what_is_stored() -> None:
    """Not of what a machine makes of it: one that lacks a time zone reads another value, and tells by the bytes."""
    moment = b'{"$datetime":["2025-06-01T00:00:00+02:00","No/Where",0]}'
    body = stored_bytes(RunContextSnapshot(run_id="r", routine_id="q", sequence=1, inputs={"at": 1}))
    stored = sealed_again(body.replace(b'"at":1', b'"at":' + moment))
    found = snapshot_in(stored)
    assert found is not None
    assert b"No/Where" not in stored_bytes(found)
    assert snapshot_in(stored.replace(b"No/Where", b"No/There")) is None


@given(changes())
def test_a_change_comes_to_the_row_by_an_append(change: ContextChange) -> None:
    """As write-behind checks and applies it; what the row then holds is what was appended."""
    (operation,) = checked(Run, [Append("changes", change)], Limits())
    run = apply(Run(routine_id="q"), operation)
    assert isinstance(run, Run)
    assert run.changes == [change]
    assert decode(Run, encode(run)) == run


def test_changes_stay_until_one_asks() -> None:
    """Then all of them move, and the row says what the snapshot was."""
    run = Run(routine_id="q", sequence=4, delta_bytes=10, changes=[written(1), written(2)])
    assert spill_run(KEY, run) is None
    asked = msgspec.structs.replace(run, changes=[*run.changes, ContextChange(snapshot=True), written(3)])
    spilled = spill_run(KEY, asked)
    assert spilled is not None
    ((kind, identifier, delta),) = spilled.history
    assert isinstance(delta, RunContextSnapshot)
    assert (kind, identifier, delta.variables["a"].value) == ("run_snapshot", "run1/00000005", 3)
    row = spilled.document
    assert (row.sequence, list(row.changes), row.newest) == (5, [], summary_of(delta))
    assert row.delta_bytes == 10 + len(stored_bytes(delta))
    assert spill_run(KEY, row) is None


def test_many_changes_move_by_themselves() -> None:
    """So a row of L3 stays small, however many they are."""
    run = Run(routine_id="q")
    for number in range(100):
        run = msgspec.structs.replace(run, changes=[*run.changes, written(number)])
        if (spilled := spill_run(KEY, run)) is not None:
            break
        assert len(encode(run)) <= BYTES_MAX
    assert spilled is not None
    assert len(encode(run)) > BYTES_MAX
    assert spill_run(KEY, Run(routine_id="q", changes=[written("x" * BYTES_MAX)])) is not None


@pytest.mark.parametrize("critical", [False, True])
def test_each_end_of_a_step_of_a_critical_run_becomes_a_snapshot(critical: bool) -> None:  # noqa: FBT001
    """Whoever decides the write sees to it; entering a step does not."""
    entered = ContextChange(steps=[StepRecord(step_id="s", status="running")])
    assert spill_run(KEY, Run(routine_id="q", critical=True, changes=[entered])) is None
    assert (spill_run(KEY, Run(routine_id="q", critical=critical, changes=[entered, ENDED])) is not None) == critical


def test_spilling_is_the_same_on_every_server() -> None:
    """The same row gives the same bytes, after its way through L3 too."""
    run = Run(routine_id="q", changes=[written({"b": 1, "a": (1, 2)}), ContextChange(snapshot=True)])
    again = decode(Run, encode(run))
    one, other = spill_run(KEY, run), spill_run(KEY, again)
    assert one is not None
    assert other is not None
    assert one.document == other.document
    assert [encode(document) for *_, document in one.history] == [encode(document) for *_, document in other.history]


@given(st.lists(changes(), max_size=12), st.booleans())
def test_what_was_spilled_and_restored_is_the_context(several: list[ContextChange], critical: bool) -> None:  # noqa: FBT001
    """Wherever the changes were cut into snapshots, and at each number as it was then."""
    kept = KeptRun(ContextState(inputs={"q": 1}), critical=critical)
    for change in several:
        kept.decide(change)
        if len(several) % 2:
            kept.add_base()
    found = kept.restored()
    assert in_order(found.state) == in_order(kept.state)
    assert (found.sequence, found.lost, found.damaged) == (kept.run.sequence, type(found.lost)(), ())
    for number, state in enumerate(kept.states):
        assert kept.restored(at=number, bases=[0]).state == state


def test_a_summary_names_as_many_variables_as_it_has_room_for() -> None:
    """The first ones, and it counts the others; the row and the next delta do not grow with them."""
    for names in (
        [f"v{number}" for number in range(NAMES_MAX + 20)],
        [f"{number}" + "\n" * 500 for number in range(9)],
    ):
        changed = {name: ContextVariable(key=name, value=1) for name in names[1:]}
        change = ContextChange(at=NOON, removed_variables=names[:1], variables=changed, snapshot=True)
        kept = KeptRun(ContextState(at=NOON))
        kept.decide(change)
        newest = kept.run.newest
        assert newest is not None
        assert list(newest.variables) == names[: len(newest.variables)]
        assert newest.more == len(names) - len(newest.variables) > 0
        assert len(msgspec.json.encode(newest.variables)) <= NAMES_BYTES_MAX + len("[]")
        kept.rows[snapshot_id(RUN_ID, 1)] = b"{}"
        lost = kept.restored().lost
        assert (lost.variables, lost.more) == (tuple(newest.variables), newest.more)


def test_a_base_tells_no_names_of_what_was_before() -> None:
    """It holds what came of them; what links it to them is there."""
    kept = KeptRun(ContextState(at=NOON))
    kept.decide(msgspec.structs.replace(written(1), snapshot=True))
    kept.add_base()
    base, newest = snapshot_in(kept.rows[base_id(RUN_ID, 1)]), kept.run.newest
    assert base is not None
    assert newest is not None
    assert base.previous == msgspec.structs.replace(newest, variables=())
    assert newest.variables == ["a"]


def test_a_base_is_due_when_it_is_worth_its_bytes() -> None:
    """Enough deltas since the last, with twice its bytes."""
    run = Run(routine_id="q", sequence=60, base=10, base_bytes=100, delta_bytes=200)
    assert base_is_due(run, 50)
    assert not base_is_due(msgspec.structs.replace(run, sequence=59), 50)
    assert not base_is_due(msgspec.structs.replace(run, delta_bytes=199), 50)
    assert base_is_due(msgspec.structs.replace(run, sequence=13), 3)
