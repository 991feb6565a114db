"""Documents change hands over real servers, and what spills becomes history in the same transaction."""

from __future__ import annotations

import pytest

import holdfast
from fix_feed import connected
from fix_owners import KEY, KINDS, PART, TASK, Part, Task, append, items_of, raise_epoch
from fix_tiers import flows_of
from fix_write_behind import die, patient
from holdfast import Consistency, Durability, NotOwner, Refused, Settings
from holdfast.write_behind.overlay import Overlay


async def taken_over(settings: Settings) -> tuple[list[str], list[str]]:
    """What an old owner that lives shows when its writes were decided elsewhere; and the row at the end.

    Its writes are not due for long, so that nothing but the takeover decides them.
    """
    async with (
        holdfast.connect(patient(settings), kinds=KINDS) as old,
        holdfast.connect(patient(settings), kinds=KINDS) as new,
    ):
        await old.collection(TASK).put(KEY.id, Task())
        first = await append(old, "a", owner=1)
        second = await append(old, "b", owner=1)
        server = flows_of(old)._given.server
        assert await flows_of(new).handing_over.decide_for(KEY, server) == second.entry.seq
        shown = await items_of(old, Consistency.STRONG)
        assert await items_of(new, Consistency.STRONG) == ["a", "b"]
        late = await append(old, "late", owner=1)
        await raise_epoch(new)
        await append(new, "c", durability=Durability.COMMITTED, owner=2)
        await old.flush()
        with pytest.raises(Refused) as refused:
            await late.reached(Durability.COMMITTED, 10.0)
        assert refused.value.reason == "not_owner"
        for write in (first, second):
            await write.reached(Durability.COMMITTED, 10.0)
        assert await items_of(old, Consistency.STRONG) == ["a", "b", "c"]
        with pytest.raises(NotOwner):
            await append(old, "later", owner=1)
        assert old.backlog().writes == 0
        return shown, await items_of(new, Consistency.STRONG)


async def test_an_owner_that_lives_shows_what_was_decided_elsewhere_once(settings: Settings) -> None:
    """S3, W7: its writes are applied first, are told committed, and are not laid over the row that has them."""
    shown, row = await taken_over(settings)
    assert (shown, row) == (["a", "b"], ["a", "b", "c"])


async def test_mutant_rows_of_a_taker_are_laid_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking which of its writes the row holds, the old owner shows them twice."""
    monkeypatch.setattr(Overlay, "knows", lambda *_: True)
    shown, _ = await taken_over(settings)
    assert shown == ["a", "b", "a", "b"]


async def test_what_a_dead_owner_left_is_applied_before_anybody_else_finds_it(settings: Settings) -> None:
    """At once: the takeover time of its journal need not pass; and whoever takes that over does nothing more."""
    async with (
        holdfast.connect(patient(settings), kinds=KINDS) as dying,
        holdfast.connect(patient(settings, write_behind_takeover_seconds=600.0), kinds=KINDS) as new,
    ):
        await dying.collection(TASK).put(KEY.id, Task())
        for token in ("a", "b"):
            await append(dying, token, owner=1)
        server = flows_of(dying)._given.server
        await die(flows_of(dying))
        for _ in range(2):  # it may be repeated
            assert await flows_of(new).handing_over.decide_for(KEY, server) == 2
        await raise_epoch(new)
        assert await items_of(new, Consistency.STRONG) == ["a", "b"]


async def test_what_spills_is_history_in_the_same_transaction(settings: Settings) -> None:
    """One commit, by one write at COMMITTED; the row is short again, and caches take both."""
    async with (
        holdfast.connect(patient(settings), kinds=KINDS) as state,
        connected(settings.postgres_url) as connection,
    ):
        await state.collection(TASK).put(KEY.id, Task())
        for token in "abc":
            await append(state, token)
        await append(state, "d", durability=Durability.COMMITTED)
        assert await state.collection(TASK).get(KEY.id) == Task(parts=1)
        assert await state.collection(PART).get("t1/1") == Part(items=["a", "b", "c", "d"])
        row, part = [
            await connection.fetchval("SELECT max(xid) FROM holdfast.outbox WHERE kind = $1 AND $2 = ANY(ids)", *key)
            for key in (("task", "t1"), ("part", "t1/1"))
        ]
        assert row == part


async def test_history_whose_id_is_taken_holds_nobody_else_up(settings: Settings) -> None:
    """The write that spills is given up as a letter, those before it and of other keys are applied."""
    async with holdfast.connect(patient(settings), kinds=KINDS) as state:
        await state.collection(PART).put("t1/1", Part(items=["mine"]))
        for key in ("t1", "t2"):
            await state.collection(TASK).put(key, Task())
            writes = [await append(state, token, key=key) for token in "abcd"]
        unwritten = await state.flush()
        assert [(each.key.id, each.refused) for each in unwritten] == [("t1", True)]
        assert await state.collection(TASK).get_many(["t1", "t2"]) == {
            "t1": Task(items=["a", "b", "c"]),
            "t2": Task(parts=1),
        }
        assert [letter.key for letter in await state.dead_writes.list()] == [KEY]
        assert writes[-1].durability is Durability.COMMITTED


async def test_history_without_a_partition_gets_one(settings: Settings) -> None:
    """The month's is made, and the flush tried again."""
    async with (
        holdfast.connect(patient(settings), kinds=KINDS) as state,
        connected(settings.postgres_url) as connection,
    ):
        await state.collection(TASK).put(KEY.id, Task())
        await append(state, "a", "b", "c", "d", durability=Durability.ACCEPTED)
        for (name,) in await connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'holdfast.part'::regclass"
        ):
            await connection.execute(f"DROP TABLE {name}")
        assert await state.flush(20.0) == []
        assert await state.collection(PART).get("t1/1") == Part(items=["a", "b", "c", "d"])
