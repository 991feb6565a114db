"""A `Set` that was accepted, and a write that is committed before it comes to L3: that is not undone (W6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

import holdfast
from fix_write_behind import noted, patient, stored
from holdfast import Collection, ConflictStrategy, Durability, Refused, Set, Settings, Swarm
from holdfast.kinds import SWARM
from holdfast.node import OpenStore
from holdfast.write_behind import deciding

KEY = "s1"
Commit = Callable[[OpenStore], Awaitable[object]]


async def put(state: OpenStore) -> None:
    """Replace the document."""
    await state.swarms.put(KEY, Swarm(goal="committed", name="put"))


async def update(state: OpenStore) -> None:
    """Change it by a function."""
    await state.swarms.update(KEY, lambda swarm: msgspec.structs.replace(swarm, goal="committed", name="update"))


async def transact(state: OpenStore) -> None:
    """Change it in a transaction."""
    async with state.transaction() as tx:
        await tx.swarms.put(KEY, Swarm(goal="committed", name="transaction"))


COMMITS = [put, update, transact]


async def accepted(state: OpenStore) -> holdfast.Receipt:
    """A `Set` that waits for its time."""
    await state.swarms.get(KEY)
    receipt = await state.swarms.patch(KEY, Set("goal", "accepted"), durability=Durability.JOURNALED)
    assert await goal_of(state.swarms) == "accepted"
    return receipt


async def goal_of(swarms: Collection[Swarm]) -> str | None:
    """What this server shows."""
    swarm = await swarms.get(KEY)
    assert swarm is not None
    return swarm.goal


async def raced(settings: Settings, commit: Commit) -> tuple[Swarm, Swarm | None, Exception | None]:
    """Another server commits while a `Set` waits; L3's row, what the first server answers, and its receipt's error."""
    fault = None
    async with holdfast.connect(patient(settings)) as state, holdfast.connect(patient(settings)) as other:
        await state.swarms.put(KEY, Swarm(goal="at first"))
        receipt = await accepted(state)
        await commit(other)
        await state.flush()
        try:
            await receipt.reached(Durability.COMMITTED, 10)
        except Refused as refused:
            fault = refused
        return (await stored(other, KEY))[KEY], await state.swarms.get(KEY), fault


@pytest.mark.parametrize("commit", COMMITS, ids=lambda commit: commit.__name__)
async def test_what_another_server_committed_stands(settings: Settings, commit: Commit) -> None:
    """W6, W10: the `Set` is refused, its receipt says why, and nobody sees it any more."""
    row, seen, fault = await raced(settings, commit)
    assert row.goal == "committed"
    assert seen == row
    assert isinstance(fault, Refused)
    assert fault.reason == "conflict"


async def test_a_late_set_undoes_a_commit_without_its_fingerprint(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of W6: what a `Set` replaced is not compared, and the committed value is undone."""
    monkeypatch.setattr(deciding._Rules, "_settled", lambda rules, document, operation, expects, conflicts: operation)
    row, _, fault = await raced(settings, put)
    assert (row.goal, fault) == ("accepted", None)


@pytest.mark.parametrize("commit", COMMITS, ids=lambda commit: commit.__name__)
async def test_what_the_same_server_commits_comes_last(settings: Settings, commit: Commit) -> None:
    """W5: what is pending on the key is brought to L3 first, so that the later write stands and both are in effect."""
    async with holdfast.connect(patient(settings)) as state:
        await state.swarms.put(KEY, Swarm(goal="at first"))
        receipt = await accepted(state)
        await commit(state)
        assert receipt.durability is Durability.COMMITTED
        assert (await stored(state, KEY))[KEY].goal == "committed"
        assert await goal_of(state.swarms) == "committed"


async def test_what_replaces_nothing_has_no_conflict(settings: Settings) -> None:
    """W6: what adds to the row is applied to whatever it is by then."""
    async with holdfast.connect(patient(settings)) as state, holdfast.connect(patient(settings)) as other:
        await state.swarms.put(KEY, Swarm(goal="at first"))
        receipt = await state.swarms.patch(KEY, *noted("1"), durability=Durability.JOURNALED)
        await put(other)
        assert await state.flush() == []
        assert receipt.durability is Durability.COMMITTED
        row = (await stored(other, KEY))[KEY]
        assert (row.goal, row.stats.total_tool_calls) == ("committed", 1)


async def test_a_kind_may_let_the_later_one_stand(settings: Settings) -> None:
    """W6: the kind's strategy decides; with CHILD_WINS the accepted `Set` stands."""
    kind = holdfast.Kind("draft", Swarm, on_conflict=ConflictStrategy.CHILD_WINS, durability=SWARM.durability)
    async with (
        holdfast.connect(patient(settings), kinds=[kind]) as state,
        holdfast.connect(patient(settings), kinds=[kind]) as other,
    ):
        await state.collection(kind).put(KEY, Swarm(goal="at first"))
        await state.collection(kind).patch(KEY, Set("goal", "accepted"))
        await other.collection(kind).put(KEY, Swarm(goal="committed"))
        assert await state.flush() == []
        assert await goal_of(state.collection(kind)) == "accepted"


async def test_a_deleted_row_does_not_come_back(settings: Settings) -> None:
    """V3: what was addressed to a row that was deleted, and put again, is refused as gone."""
    async with holdfast.connect(patient(settings)) as state, holdfast.connect(patient(settings)) as other:
        await state.swarms.put(KEY, Swarm(goal="at first"))
        await state.swarms.get(KEY)
        receipt = await state.swarms.patch(KEY, *noted("1"), default=Swarm(), durability=Durability.JOURNALED)
        await other.swarms.delete(KEY)
        await other.swarms.put(KEY, Swarm(goal="another life"))
        (unwritten,) = await state.flush()
        assert unwritten.refused
        with pytest.raises(Refused) as refused:
            await receipt.reached(Durability.COMMITTED)
        assert refused.value.reason == "gone"
        assert (await stored(other, KEY))[KEY] == Swarm(goal="another life")
