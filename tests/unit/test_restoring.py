"""Restoring a run's context: the longest intact prefix, and exactly what is lost behind it."""

from __future__ import annotations

import datetime as dt
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_runs import NOON, RUN_ID, KeptRun, answered, changes, in_order, restored, stored_bytes
from holdfast.documents import ContextChange, ContextVariable, RunContextSnapshot, StepRecord, decode
from holdfast.errors import ContextCorrupt
from holdfast.run_context import restoring as rules
from holdfast.run_context.changes import ContextState, applied, combined, ends_in
from holdfast.run_context.restoring import Loss, Restored, following, restoring
from holdfast.run_context.snapshots import base_id, base_of, rebased, sealed, snapshot_id

BEGIN = ContextState(inputs={"q": 1}, at=NOON)


def checkpoint(number: int) -> ContextChange:
    """The change that becomes snapshot `number`: it ends a step and sets two variables."""
    names = ("all", f"v{number}")
    return ContextChange(
        at=NOON + dt.timedelta(seconds=number),
        variables={name: ContextVariable(key=name, value=number) for name in names},
        steps=[StepRecord(step_id=f"s{number}", status="completed")],
        snapshot=True,
    )


def kept_run(snapshots: int, *, bases: tuple[int, ...] = ()) -> KeptRun:
    """A run with so many snapshots, and a change in its row, half a second after the last."""
    kept = KeptRun(BEGIN)
    for number in range(1, snapshots + 1):
        kept.decide(checkpoint(number))
        if number in bases:
            kept.add_base()
    tail = ContextVariable(key="tail", value=1)
    kept.decide(ContextChange(at=NOON + dt.timedelta(seconds=snapshots + 0.5), variables={"tail": tail}))
    return kept


def snapshot_of(body: bytes) -> RunContextSnapshot:
    """The snapshot, whatever its checksum."""
    return decode(RunContextSnapshot, body)


def resealed(body: bytes, **changed: Any) -> bytes:
    """Another snapshot, as sound."""
    return stored_bytes(sealed(msgspec.structs.replace(snapshot_of(body), **changed)))


DAMAGES = ("missing", "unreadable", "changed", "swapped", "flipped bit")


def damage(kept: KeptRun, identifier: str, how: str, place: int = 0) -> None:
    """Spoil a row."""
    body = kept.rows[identifier]
    match how:
        case "missing":
            del kept.rows[identifier]
        case "unreadable":
            kept.rows[identifier] = b'{"__version":2}'
        case "changed":
            kept.rows[identifier] = stored_bytes(msgspec.structs.replace(snapshot_of(body), routine_id="other"))
        case "swapped":
            kept.rows[identifier] = resealed(body, sequence=snapshot_of(body).sequence + 1)
        case "flipped bit":
            spoiled = bytearray(body)
            spoiled[spoiled.index(b'"routineId"') + 12 + place % 8] ^= 1
            kept.rows[identifier] = bytes(spoiled)


def model(kept: KeptRun, bad: set[str]) -> int:
    """The number up to which the context can be known; -1: not at all."""
    number = max((base for base in kept.bases if base_id(RUN_ID, base) not in bad), default=-1)
    while 0 <= number < kept.run.sequence and snapshot_id(RUN_ID, number + 1) not in bad:
        number += 1
    return number


@settings(max_examples=300)
@given(st.lists(changes(), max_size=12), st.data())
def test_the_longest_intact_prefix_and_its_exact_loss(several: list[ContextChange], data: st.DataObject) -> None:
    """Whatever snapshots are damaged, and however: no more and no less is taken, and the rest is told."""
    kept = KeptRun(BEGIN, critical=data.draw(st.booleans()))
    for change in several:
        kept.decide(change)
        if data.draw(st.integers(0, 3)) == 0:
            kept.add_base()
    bad = set(data.draw(st.lists(st.sampled_from(sorted(kept.rows)), unique=True)))
    for identifier in bad:
        damage(kept, identifier, data.draw(st.sampled_from(DAMAGES)), data.draw(st.integers(0, 7)))
    number = model(kept, bad)
    if number < 0:
        with pytest.raises(ContextCorrupt):
            kept.restored()
        return
    found = kept.restored()
    assert found.sequence == number
    assert set(found.damaged) <= bad
    if number == kept.run.sequence:
        assert not found.lost
        assert in_order(found.state) == in_order(kept.state)
        return
    assert in_order(found.state) == in_order(kept.states[number])
    assert_exact(found.lost, kept, bad, number)


def assert_exact(lost: Loss, kept: KeptRun, bad: set[str], number: int) -> None:
    """What the changes behind a number held, snapshot by snapshot, and the row's."""
    behind = [combined(made) for made in kept.history[number + 1 :]]
    tail = combined(kept.run.changes)
    assert lost.snapshots == len(behind)
    assert lost.changes == len(kept.run.changes)
    assert lost.steps == sum(ends_in(change.steps) for change in [*behind, tail])
    numbers = range(number + 1, kept.run.sequence + 1)
    silent = {
        each
        for each in numbers
        if each < kept.run.sequence and snapshot_id(RUN_ID, each) in bad and snapshot_id(RUN_ID, each + 1) in bad
    }
    assert lost.unknown == len(silent)
    told = [change for each, change in zip(numbers, behind, strict=True) if each not in silent]
    assert set(lost.variables) == {key for each in [*told, tail] for key in (*each.variables, *each.removed_variables)}
    ends = [change.at for change in [*behind, tail] if change.at is not None]
    begin = next((state.at for state in reversed(kept.states[: number + 1]) if state.at is not None), None)
    assert begin is not None
    assert lost.seconds == max((ends[-1] - begin).total_seconds(), 0.0)


def test_nothing_is_lost_of_what_is_intact() -> None:
    """The row's changes are a part of the context."""
    kept = kept_run(5, bases=(3,))
    found = kept.restored()
    assert (found.sequence, found.base, bool(found.lost), found.damaged) == (5, 3, False, ())
    assert found.state.variables["tail"].value == 1
    assert found.newest == kept.run.newest


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_snapshot(how: str) -> None:
    """The one before is taken; what the newest held is known from the row."""
    kept = kept_run(5)
    damage(kept, snapshot_id(RUN_ID, 5), how)
    found = kept.restored()
    assert in_order(found.state) == in_order(kept.states[4])
    assert found.lost == Loss(steps=1, variables=("all", "v5", "tail"), seconds=1.5, snapshots=1, changes=1)
    assert found.damaged == ("run1/00000005",)


def test_a_gap_loses_what_is_behind_it() -> None:
    """Intact deltas behind a bad one are not put upon it; each tells of the one before."""
    kept = kept_run(6)
    damage(kept, snapshot_id(RUN_ID, 3), "missing")
    found = kept.restored()
    assert (found.sequence, found.damaged) == (2, ("run1/00000003",))
    assert found.lost.variables == ("all", "v3", "v4", "v5", "v6", "tail")
    assert (found.lost.steps, found.lost.seconds, found.lost.unknown) == (4, 4.5, 0)


def test_two_in_a_row_are_told_of_as_far_as_anybody_knows() -> None:
    """Steps and seconds are exact all the same."""
    kept = kept_run(6)
    for number in (3, 4):
        damage(kept, snapshot_id(RUN_ID, number), "unreadable")
    lost = kept.restored().lost
    assert (lost.steps, lost.seconds, lost.unknown) == (4, 4.5, 1)
    assert lost.variables == ("all", "v4", "v5", "v6", "tail")


def test_the_loss_of_a_base_is_harmless() -> None:
    """The one before and the deltas give the same."""
    kept = kept_run(6, bases=(2, 5))
    damage(kept, base_id(RUN_ID, 5), "changed")
    found = kept.restored()
    assert (found.base, bool(found.lost), found.damaged) == (2, False, ("run1/00000005.base",))
    assert in_order(found.state) == in_order(kept.state)


def test_a_base_bridges_damaged_deltas() -> None:
    """What it holds needs no delta before it."""
    kept = kept_run(6, bases=(4,))
    for number in (2, 3, 4):
        damage(kept, snapshot_id(RUN_ID, number), "missing")
    assert not kept.restored().lost


def test_a_context_without_a_base_is_never_taken_to_be_empty() -> None:
    """A typed error that says what was tried."""
    kept = kept_run(3, bases=(2,))
    for number in (0, 2):
        damage(kept, base_id(RUN_ID, number), "unreadable")
    with pytest.raises(ContextCorrupt) as caught:
        kept.restored()
    assert caught.value.snapshots == ("run1/00000002.base", "run1/00000000.base")
    with pytest.raises(ContextCorrupt, match="is left: they were dropped with their months, or pruned"):
        kept.restored(bases=[])


def test_a_new_base_repairs_the_chain() -> None:
    """After a loss it stands above all numbers; the run goes on behind it, and keeps count of its steps."""
    kept = kept_run(4)
    damage(kept, snapshot_id(RUN_ID, 3), "changed")
    first = kept.restored()
    base = base_of(RUN_ID, kept.run, first.state, sequence=kept.run.sequence + 1, previous=first.newest)
    kept.rows[base_id(RUN_ID, 5)] = stored_bytes(base)
    kept.bases.append(5)
    kept.run = rebased(kept.run, base)
    again = kept.restored()
    assert (again.state, again.sequence, bool(again.lost)) == (first.state, 5, False)
    assert again.newest.steps == 2
    kept.decide(checkpoint(6))
    assert (kept.restored().sequence, kept.restored().newest.steps) == (6, 3)
    assert "v6" in kept.restored().state.variables
    damage(kept, base_id(RUN_ID, 5), "missing")
    last = kept.restored()
    assert (last.sequence, last.lost.steps, last.lost.snapshots) == (2, 1, 4)


def test_as_of_a_snapshot() -> None:
    """Without the row's changes, and with the status of then."""
    kept = kept_run(5, bases=(4,))
    kept.run = msgspec.structs.replace(kept.run, status="failed")
    assert kept.restored().state.status == "failed"
    found = kept.restored(at=3)
    assert (found.state, found.sequence, found.base) == (kept.states[3], 3, 0)
    assert found.state.status == "running"
    damage(kept, snapshot_id(RUN_ID, 3), "missing")
    assert kept.restored(at=3).lost == Loss(steps=1, variables=("all", "v3"), seconds=1.0, snapshots=1)


@given(st.lists(changes(), max_size=12), st.data())
def test_who_knows_a_state_goes_on_from_there(several: list[ContextChange], data: st.DataObject) -> None:
    """It comes to the same, and asks for nothing but the deltas behind it; what was damaged meanwhile is lost."""
    kept = KeptRun(BEGIN)
    for change in several:
        kept.decide(change)
    number = data.draw(st.integers(0, kept.run.sequence))
    newest = kept.restored(at=number).newest
    behind = {
        snapshot_id(RUN_ID, each): kept.rows[snapshot_id(RUN_ID, each)]
        for each in range(number + 1, kept.run.sequence + 1)
    }
    found = answered(following(RUN_ID, kept.run, kept.states[number], newest), behind)
    assert in_order(found.state) == in_order(kept.state)
    assert (found.sequence, found.lost, found.damaged) == (kept.run.sequence, Loss(), ())
    if behind:
        first = next(iter(behind))
        lossy = answered(following(RUN_ID, kept.run, kept.states[number], newest), {**behind, first: b""})
        assert (lossy.sequence, lossy.lost.snapshots) == (number, kept.run.sequence - number)


def test_as_many_are_asked_for_as_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base comes with the first deltas; a long chain takes more questions, each bounded."""
    kept = kept_run(11)
    monkeypatch.setattr(rules, "IDS_MAX", 4)
    walk = restoring(RUN_ID, kept.run, kept.bases)
    questions = [next(walk)]
    with pytest.raises(StopIteration) as end:  # noqa: PT012 - the end may come at any question
        while True:
            questions.append(walk.send({each: kept.rows[each] for each in questions[-1]}))
    assert [len(asked) for asked in questions if asked] == [4, 3, 3, 2]
    assert questions[0][:2] == ("run1/00000000.base", "run1/00000001")
    assert isinstance(end.value.value, Restored)
    assert end.value.value.state == kept.state


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged at once"])
def test_of_large_snapshots_few_are_asked_for(monkeypatch: pytest.MonkeyPatch, *, damaged: bool) -> None:
    """All that were asked for are in memory at a time; of small ones, many are."""
    kept = kept_run(500)
    if damaged:
        del kept.rows[snapshot_id(RUN_ID, 1)]
    rows = kept.rows
    for page_bytes, least, most in ((rules.PAGE_BYTES, 199, 200), (5 * max(map(len, rows.values())), 4, 9)):
        monkeypatch.setattr(rules, "PAGE_BYTES", page_bytes)
        walk = restoring(RUN_ID, kept.run, kept.bases)
        sizes = [len(asked := next(walk))]
        try:
            while True:
                asked = walk.send({each: rows[each] for each in asked if each in rows})
                sizes.append(len(asked))
        except StopIteration as end:
            assert end.value.sequence == (0 if damaged else 500)  # noqa: PT017 - what the walk returns
        assert least <= max(sizes) <= most


def test_what_the_row_tells_of_its_base_is_not_taken_for_another() -> None:
    """Sizes of the present chain say nothing of those before it."""
    kept = kept_run(100, bases=(99,))
    kept.run = msgspec.structs.replace(kept.run, base_bytes=100, delta_bytes=100)
    assert len(next(restoring(RUN_ID, kept.run, [99]))) == 2
    assert len(next(restoring(RUN_ID, kept.run, [0]))) == rules.FIRST_IDS_MAX


def test_a_sound_snapshot_of_another_chain_is_not_taken() -> None:
    """Its checksum is right, but it does not name the one before; or the row names another in its place."""
    kept, other = kept_run(3), other_chain()
    kept.rows[snapshot_id(RUN_ID, 2)] = other.rows[snapshot_id(RUN_ID, 2)]
    assert kept.restored().sequence == 1
    whole = kept_run(3)
    newest = whole.rows[snapshot_id(RUN_ID, 3)]
    whole.rows[snapshot_id(RUN_ID, 3)] = resealed(newest, current_step="elsewhere")
    assert whole.restored().sequence == 2


def other_chain() -> KeptRun:
    """A run of the same id that began otherwise."""
    kept = KeptRun(ContextState(inputs={"q": 2}, at=NOON))
    for number in range(1, 4):
        kept.decide(checkpoint(number))
    return kept


@pytest.mark.parametrize("mutant", ["snapshot_in", "is_same"])
def test_without_a_check_damage_passes(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: a checksum that is always right, and a link that always fits."""
    kept = kept_run(4)
    if mutant == "snapshot_in":
        damage(kept, snapshot_id(RUN_ID, 2), "changed")
    else:
        kept.rows[snapshot_id(RUN_ID, 2)] = other_chain().rows[snapshot_id(RUN_ID, 2)]
    assert kept.restored().sequence == 1
    monkeypatch.setattr(rules, mutant, snapshot_of if mutant == "snapshot_in" else lambda *_: True)
    assert kept.restored().sequence == 4


def test_a_sound_snapshot_in_a_wrong_place_is_not_taken() -> None:
    """A base in place of a delta, one number for another, another run's."""
    for wrong in (base_id(RUN_ID, 0), snapshot_id(RUN_ID, 1)):
        kept = kept_run(3)
        kept.rows[snapshot_id(RUN_ID, 2)] = kept.rows[wrong]
        assert kept.restored().sequence == 1
    strange = kept_run(3, bases=(3,))
    base = strange.rows[base_id(RUN_ID, 3)]
    strange.rows[base_id(RUN_ID, 3)] = resealed(base, run_id="run2")
    assert strange.restored().base == 0


def test_a_state_is_what_its_changes_make() -> None:
    """The model of these tests, told by the law of changes."""
    kept = kept_run(3)
    assert reduce(applied, [change for made in kept.history for change in made], BEGIN) == kept.states[3]
    assert restored(kept.run, kept.rows, [0], at=0).state == BEGIN
