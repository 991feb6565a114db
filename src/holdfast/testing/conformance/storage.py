"""The contract of `Storage`, rule by rule."""

from __future__ import annotations

import asyncio

from holdfast.errors import AppendOnly, Conflict
from holdfast.keys import Key
from holdfast.protocols import Row, Storage, Write

KEY = Key("bot", "b1")
BODY = b'{"name": "first"}'
OTHER = b'{"name": "second"}'


class StorageSuite:
    """The checks.

    Args:
        storage: empty, knowing at least the built-in kinds.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def check_what_was_saved_is_loaded(self) -> None:
        """A row comes back with its bytes, schema and version."""
        versions = await self.storage.save([Write(KEY, 3, BODY)])
        assert await self.row(KEY) == Row(versions[KEY], versions[KEY], 3, BODY)

    async def check_absent_rows_are_absent(self) -> None:
        """Keys without a row are not in the answer; identity is, even for no keys at all."""
        loaded = await self.storage.load([KEY])
        assert loaded.rows == {}
        assert (await self.storage.load([])).coherence == loaded.coherence

    async def check_several_kinds_in_one_load(self) -> None:
        """One load answers for keys of several kinds, and equal ids of different kinds are different rows."""
        keys = [Key("bot", "x"), Key("team", "x"), Key("swarm", "x"), Key("routine", "x")]
        await self.storage.save([Write(key, 1, b'"%s"' % key.kind.encode()) for key in keys])
        rows = (await self.storage.load([*keys, Key("team", "y")])).rows
        assert {key: row.body for key, row in rows.items()} == {key: b'"%s"' % key.kind.encode() for key in keys}

    async def check_versions_rise_over_all_rows(self) -> None:
        """Every write draws a higher number, whatever row it is of; the birth version stays."""
        first = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        other = (await self.storage.save([Write(Key("team", "t1"), 1, BODY)]))[Key("team", "t1")]
        second = (await self.storage.save([Write(KEY, 1, OTHER)]))[KEY]
        assert first < other < second
        assert (await self.row(KEY)).birth == first

    async def check_versions_rise_over_delete_and_insert(self) -> None:
        """A deletion draws a version above the row's, and the next life begins above that."""
        first = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        deleted, existed = await self.storage.delete(KEY)
        assert existed
        again = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        assert first < deleted < again
        assert (await self.row(KEY)).birth == again

    async def check_deleting_nothing_says_so(self) -> None:
        """Deleting what is not there is no error and no deletion."""
        assert (await self.storage.delete(KEY))[1] is False
        assert (await self.storage.delete(KEY, expected=0))[1] is False

    async def check_insert_only(self) -> None:
        """`expected=0` writes what is not there and refuses what is, leaving it as it was."""
        version = (await self.storage.save([Write(KEY, 1, BODY, 0)]))[KEY]
        conflict = await self.refused(Write(KEY, 1, OTHER, 0))
        assert (conflict.expected, conflict.actual) == (0, version)
        assert (await self.row(KEY)).body == BODY

    async def check_compare_and_set(self) -> None:
        """A write at the expected version succeeds once; the loser learns the version it met."""
        version = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        newer = (await self.storage.save([Write(KEY, 1, OTHER, version)]))[KEY]
        conflict = await self.refused(Write(KEY, 1, BODY, version))
        assert (conflict.expected, conflict.actual) == (version, newer)
        assert (await self.row(KEY)).body == OTHER

    async def check_compare_and_set_on_nothing(self) -> None:
        """A write that expects a version of a missing row is refused and creates nothing."""
        assert (await self.refused(Write(KEY, 1, BODY, 5))).actual == 0
        assert (await self.storage.load([KEY])).rows == {}

    async def check_all_or_none(self) -> None:
        """One refused write of many undoes the others, of other kinds too."""
        await self.storage.save([Write(KEY, 1, BODY)])
        team, fresh = Key("team", "t1"), Key("bot", "fresh")
        conflict = await self.refused(Write(fresh, 1, OTHER, 0), Write(KEY, 1, OTHER, 0), Write(team, 1, OTHER))
        assert conflict.key == KEY
        assert set((await self.storage.load([KEY, team, fresh])).rows) == {KEY}
        assert (await self.row(KEY)).body == BODY

    async def check_one_of_many_racing_writers_wins(self) -> None:
        """Of ten writers that expect the same version exactly one succeeds."""
        version = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        outcomes = await asyncio.gather(
            *(self.storage.save([Write(KEY, 1, b"%d" % number, version)]) for number in range(10)),
            return_exceptions=True,
        )
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9

    async def check_conditional_delete(self) -> None:
        """A delete at another version is refused and deletes nothing."""
        version = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        try:
            await self.storage.delete(KEY, expected=version + 1000)
        except Conflict as conflict:
            assert conflict.actual == version
        else:
            raise AssertionError("the delete was not refused")
        assert (await self.storage.delete(KEY, expected=version))[1] is True

    async def check_append_only(self) -> None:
        """History takes new ids only: no second write, no change, no deletion."""
        key = Key("run_snapshot", "run-1/1")
        version = (await self.storage.save([Write(key, 1, BODY)]))[key]
        for write in (
            Write(key, 1, OTHER),
            Write(key, 1, OTHER, version),
            Write(Key("run_snapshot", "n"), 1, BODY, 5),
        ):
            await self.expect_append_only(self.storage.save([write]))
        await self.expect_append_only(self.storage.delete(key))
        assert (await self.row(key)).body == BODY

    async def check_scan_in_byte_order(self) -> None:
        """A scan pages through one kind in the byte order of ids, each row once."""
        ids = ["b", "a", "ä", "B", "a/1", "日本", "~", "a1"]
        await self.storage.save([Write(Key("team", identifier), 1, BODY) for identifier in ids])
        await self.storage.save([Write(KEY, 1, BODY)])
        seen: list[str] = []
        after: str | None = None
        while page := await self.storage.scan("team", after=after, limit=3):
            assert len(page) <= 3
            seen += [key.id for key, _ in page]
            after = seen[-1]
        assert seen == sorted(ids, key=str.encode)

    async def check_a_save_of_thousands(self) -> None:
        """More rows than fit one statement are still written together."""
        keys = [Key("routine", f"r{number:05}") for number in range(2500)]
        versions = await self.storage.save([Write(key, 1, BODY) for key in keys])
        assert len(set(versions.values())) == 2500
        assert len((await self.storage.load(keys)).rows) == 2500

    async def check_thousands_of_history(self) -> None:
        """History takes thousands of new ids in one save, and none of them if one exists."""
        keys = [Key("run_snapshot", f"run-1/{number:04}") for number in range(5000)]
        await self.storage.save([Write(keys[-1], 1, BODY)])
        await self.expect_append_only(self.storage.save([Write(key, 1, OTHER) for key in keys]))
        assert set((await self.storage.load(keys)).rows) == {keys[-1]}
        versions = await self.storage.save([Write(key, 1, BODY) for key in keys[:-1]])
        assert len(set(versions.values())) == 4999
        assert set((await self.storage.load(keys)).rows) == set(keys)

    async def row(self, key: Key) -> Row:
        """The row of a key."""
        return (await self.storage.load([key])).rows[key]

    async def refused(self, *writes: Write) -> Conflict:
        """The conflict that these writes meet."""
        try:
            await self.storage.save(list(writes))
        except Conflict as conflict:
            return conflict
        raise AssertionError("the write was not refused")

    @staticmethod
    async def expect_append_only(action: object) -> None:
        """Await something that must be refused as `AppendOnly`."""
        try:
            await action  # type: ignore[misc]
        except AppendOnly:
            return
        raise AssertionError("history was changed")
