"""What the change feed tells of generations, tags and void keys (rule C4)."""

from __future__ import annotations

import asyncio

import msgspec

from holdfast.changes import ChangeOperation
from holdfast.protocols import Snapshot, Target
from holdfast.testing.conformance.feed_harness import (
    INSERT,
    KEY,
    OTHER,
    FeedSuite,
    told,
)


class FeedVoidsSuite(FeedSuite):
    """The checks."""

    async def check_generations_reach_every_reader(self) -> None:
        """A raised generation is known at once to who raised it, at the next poll to others, and to loads."""
        source, cursor = await self.reader()
        reader, second = await self.reader()
        version = await self.put(OTHER)
        first = await source.raise_generation("kind:bot")
        assert first.floor("bot") > version > cursor.coherence.highest
        assert first.floor("team") == cursor.coherence.floor("team")
        assert (await self.go_on(reader, second)).cursor.coherence == first
        assert (await self.storage.load([])).coherence == first
        raised = await asyncio.gather(source.raise_generation("own"), reader.raise_generation("all"))
        now = (await self.go_on(source, cursor)).cursor.coherence
        assert now.highest == max(coherence.highest for coherence in raised)
        assert min(now.generations["own"], now.floor("team")) > first.highest

    async def check_generations_of_tags_are_told_to_every_reader(self) -> None:
        """Each reader is told those above the newest that its cursor knows; a beginning is told all."""
        source, cursor = await self.reader()
        first, second = await self.raise_tag("x"), await self.raise_tag("y")
        poll = await self.go_on(source, cursor)
        assert (poll.tags, poll.cursor.coherence.tag) == ({"x": first, "y": second}, second)
        assert not poll.changes
        version = await self.put(OTHER)
        later = await self.go_on(source, poll.cursor)
        assert (later.tags, told(later.changes)) == ({}, [(OTHER, version, INSERT)])
        third = await self.raise_tag("x")
        assert (await self.go_on(source, later.cursor)).tags == {"x": third}
        assert (await self.go_on(source, cursor)).tags == {"x": third, "y": second}
        assert (await self.feeds.source().poll(None)).tags == {"x": third, "y": second}

    async def check_a_reset_tells_all_tags(self) -> None:
        """Whoever begins anew knows none of those that its old cursor knew."""
        source, _ = await self.reader()
        number = await self.raise_tag("x")
        cursor = (await source.poll(None)).cursor
        ahead = cursor.snapshot.xmax + 1_000_000
        poll = await source.poll(msgspec.structs.replace(cursor, snapshot=Snapshot(ahead, ahead)))
        assert poll.reset
        assert poll.tags == {"x": number}

    async def check_no_tag_is_lost_between_polls(self) -> None:
        """Raised side by side while somebody polls, each is told once, with its number."""
        source, cursor = await self.reader()
        told: dict[str, int] = {}
        raising = [asyncio.ensure_future(self.raise_tag(f"t{number % 10}")) for number in range(40)]
        while len(told) < 10 or not all(each.done() for each in raising):
            poll = await self.go_on(source, cursor)
            assert all(number > told.get(tag, 0) for tag, number in poll.tags.items())
            told |= poll.tags
            cursor = poll.cursor
            await asyncio.sleep(0)
        told |= (await self.go_on(source, cursor)).tags
        raised = [await each for each in raising]
        assert told == {f"t{tag}": max(raised[tag::10]) for tag in range(10)}

    async def check_a_void_key_is_told_like_a_change(self) -> None:
        """With a number above the row's version, and the row stays as it is; a key without a row too."""
        version = await self.put(KEY)
        source, cursor = await self.reader()
        numbers = [
            (await self.storage.invalidate(Target.of(key), reason="a check", actor="the suite")).number
            for key in (KEY, OTHER)
        ]
        poll = await self.go_on(source, cursor)
        assert told(poll.changes) == [
            (KEY, numbers[0], ChangeOperation.VOID),
            (OTHER, numbers[1], ChangeOperation.VOID),
        ]
        assert version < numbers[0] < numbers[1]
        rows = (await self.storage.load([KEY, OTHER])).rows
        assert {key: row.version for key, row in rows.items()} == {KEY: version}
