"""The contract of `Storage`, rule by rule."""

from __future__ import annotations

import asyncio

from holdfast.errors import AppendOnly, Conflict, SettingsError
from holdfast.keys import Key
from holdfast.protocols import Invalidation, Row, Storage, Target, Write

KEY = Key("bot", "b1")
BODY = b'{"name": "first"}'
OTHER = b'{"name": "second"}'
SWARM = Key("swarm", "s1")
"""Of a kind that declares tags."""
ODD_TAGS = ('a"b', "a\\", "{a,b}", "NULL", " ", "$1", "日本")


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

    async def check_tags_are_counted(self) -> None:
        """A row has the tags it was written with last, however it was written, alone or among thousands."""
        await self.storage.save([Write(SWARM, 1, BODY, 0, ("x", "y"))])
        await self.storage.save([Write(Key("swarm", "s2"), 1, BODY, tags=("x",))])
        assert [await self.tagged(tag) for tag in ("x", "y", "xy")] == [2, 1, 0]
        version = (await self.storage.save([Write(SWARM, 1, OTHER, tags=("z",))]))[SWARM]
        assert [await self.tagged(tag) for tag in ("x", "y", "z")] == [1, 0, 1]
        await self.storage.save([Write(SWARM, 1, OTHER, version, ODD_TAGS)])
        assert [await self.tagged(tag) for tag in ("z", *ODD_TAGS)] == [0] + [1] * len(ODD_TAGS)
        many = [Key("swarm", f"m{number:04}") for number in range(1500)]
        await self.storage.save([Write(key, 1, BODY, tags=("m", key.id)) for key in many])
        snapshot = Key("run_snapshot", "r1/1")
        await self.storage.save([Write(snapshot, 1, BODY, tags=("m",))])
        assert [await self.tagged(tag) for tag in ("m", "m1234")] == [1501, 1]
        await self.storage.save([Write(many[0], 1, BODY), *(Write(key, 1, BODY, tags=ODD_TAGS) for key in many[1:])])
        assert [await self.tagged(tag) for tag in ("m", *ODD_TAGS)] == [1] + [1500] * len(ODD_TAGS)

    async def check_what_a_target_names_is_counted(self) -> None:
        """A kind's rows, one row or none of a key, all rows; nothing is changed by counting."""
        await self.storage.save([Write(key, 1, BODY) for key in (KEY, SWARM, Key("swarm", "s2"))])
        before = (await self.storage.load([])).coherence
        targets = [Target("swarm"), Target("team"), Target.of(KEY), Target("bot", "none"), Target()]
        assert [await self.storage.count(target) for target in targets] == [2, 0, 1, 0, 3]
        assert (await self.storage.load([])).coherence == before

    async def check_invalidating_raises_what_it_names(self) -> None:
        """A kind's or everyone's floor, or the newest of the tags; it is known at once, and no row is touched."""
        version = (await self.storage.save([Write(KEY, 1, BODY)]))[KEY]
        before = (await self.storage.load([])).coherence
        numbers = [
            (await self.invalidate(target)).number
            for target in (Target("bot"), Target(tag="x"), Target.of(KEY), Target())
        ]
        known = self.storage.coherence()
        assert numbers == sorted(set(numbers))
        assert min(numbers) > before.highest
        assert (known.generations["kind:bot"], known.tag, known.floor("team")) == (numbers[0], numbers[1], numbers[3])
        assert (known.highest, known.tagged) == (numbers[3], before.tagged)
        assert (await self.storage.load([])).coherence == known
        assert await self.row(KEY) == Row(version, version, 1, BODY)

    async def check_invalidations_are_recorded(self) -> None:
        """What, when, why and by whom, the newest first; a key that has no row too."""
        targets = [Target(tag="a b"), Target("swarm"), Target("bot", "x:y"), Target()]
        done = [await self.storage.invalidate(target, reason=f"why {target}", actor="ada") for target in targets]
        assert [(each.scope, each.reason, each.actor) for each in done] == [
            (scope, f"why {scope}", "ada") for scope in ("tag:a b", "kind:swarm", "bot:x:y", "all")
        ]
        assert [each.at for each in done] == sorted({each.at for each in done})
        assert list(await self.storage.invalidations(10)) == done[::-1]
        assert list(await self.storage.invalidations(1)) == done[-1:]

    async def check_an_unknown_kind_is_refused(self) -> None:
        """Nothing is raised or recorded for a kind that L3 does not have, nor is anything counted."""
        before = (await self.storage.load([])).coherence
        for target in (Target("nobody"), Target("nobody", "x")):
            for asked in (self.invalidate(target), self.storage.count(target)):
                try:
                    await asked
                except SettingsError as refusal:
                    assert "no kind nobody" in str(refusal)
                else:
                    raise AssertionError("it was not refused")
        assert not await self.storage.invalidations(10)
        assert (await self.storage.load([])).coherence == before

    async def invalidate(self, target: Target) -> Invalidation:
        """Make a target void."""
        return await self.storage.invalidate(target, reason="a check", actor="the suite")

    async def tagged(self, tag: str) -> int:
        """How many rows have a tag."""
        return await self.storage.count(Target(tag=tag))

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
