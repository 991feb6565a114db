"""The contract of `KeyRows`: what a retired master key wraps is nothing, whatever is done at once."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from holdfast.errors import KeyRetired, TierError
from holdfast.protocols import DataKeyRow, KeyRows, MasterKeyUse, NewestKey
from holdfast.protocols.data_keys import DATA_KEYS_LISTED_MAX


class KeyHarness(Protocol):
    """Makes what a check needs, over one L3 without data keys."""

    def rows(self) -> KeyRows:
        """What one more server sees of data keys."""
        ...


class KeyRowsSuite:
    """The checks."""

    def __init__(self, harness: KeyHarness) -> None:
        self.rows, self.other = harness.rows(), harness.rows()

    async def check_rows_are_kept_as_they_are(self) -> None:
        """Found by their ids, listed in pages in order of these, on another server too."""
        rows = [row(key_id, wrapped=key_id.encode() * 3) for key_id in ("c", "a", "d", "B")]
        for each in rows:
            await self.rows.add(each)
        assert await self.other.find(["a", "d", "none", "a"]) == {"a": rows[1], "d": rows[2]}
        assert await self.other.find([]) == {}
        assert await self.other.find(["a\0", "\0", "d"]) == {"d": rows[2]}
        assert [each.id for each in await self.other.list(limit=3)] == ["B", "a", "c"]
        assert list(await self.other.list(after="c", limit=3)) == [rows[2]]
        assert await self.other.list(after="d", limit=3) == []

    async def check_an_id_is_taken_once(self) -> None:
        """A second row of it would make what the first has sealed unreadable."""
        await self.rows.add(row("a"))
        await raises(TierError, self.other.add(row("a", wrapped=b"another")))
        assert await self.rows.find(["a"]) == {"a": row("a")}

    async def check_the_newest_is_that_added_last(self) -> None:
        """Of those that these master keys wrap; wrapping anew makes none of them newer."""
        assert await self.rows.newest(["m1"]) is None
        for key_id, master in (("c", "m1"), ("a", "m2"), ("b", "m1")):
            await self.rows.add(row(key_id, master))
        assert await self.other.newest(["m1"]) == NewestKey(row("b"), is_outdated=False)
        assert await self.other.newest(["m2", "m1", "m3"]) == NewestKey(row("b"), is_outdated=False)
        assert await self.other.newest(["m2"]) == NewestKey(row("a", "m2"), is_outdated=False)
        assert await self.other.newest([]) is None
        assert await self.rows.rewrap(row("c", "m1", b"again"), b"wrapped")
        assert await self.other.newest(["m1"]) == NewestKey(row("b"), is_outdated=False)

    async def check_a_key_is_outdated_once_a_master_key_was_retired(self) -> None:
        """After it was added, whoever wraps it by now; not by retiring again what is retired."""
        await self.rows.add(row("a"))
        assert await self.rows.outdated(["a"]) == frozenset()
        await self.rows.retire(["m1"], first="m2")
        assert await self.other.newest(["m1"]) == NewestKey(row("a"), is_outdated=True)
        await self.rows.rewrap(row("a", "m2", b"second"), b"wrapped")
        assert await self.other.newest(["m2"]) == NewestKey(row("a", "m2", b"second"), is_outdated=True)
        await self.rows.add(row("b", "m2"))
        await self.rows.retire(["m1"], first="m2")
        assert await self.other.newest(["m1", "m2"]) == NewestKey(row("b", "m2"), is_outdated=False)
        assert await self.other.outdated(["b", "none", "a", "a\0"]) == {"a"}
        await self.rows.retire(["m3"], first="m2")
        assert await self.other.newest(["m1", "m2"]) == NewestKey(row("b", "m2"), is_outdated=True)
        assert await self.other.outdated(["a", "b"]) == {"a", "b"}
        assert await self.other.outdated(["a"]) == {"a"}

    async def check_a_row_is_replaced_only_as_it_was_read(self) -> None:
        """Of two who wrap it anew one is told that the other was faster."""
        await self.rows.add(row("a"))
        assert await self.rows.rewrap(row("a", "m2", b"second"), b"wrapped")
        assert not await self.other.rewrap(row("a", "m3", b"third"), b"wrapped")
        assert not await self.other.rewrap(row("b", "m3", b"third"), b"wrapped")
        assert await self.other.find(["a"]) == {"a": row("a", "m2", b"second")}

    async def check_masters_are_counted(self) -> None:
        """With those that wrap nothing any more, or never did before they were retired."""
        await self.rows.add(row("a"))
        await self.rows.add(row("b"))
        await self.rows.retire(["m2"], first="m1")
        await self.rows.rewrap(row("a", "m3", b"third"), b"wrapped")
        assert await self.uses() == {"m1": (1, False), "m2": (0, True), "m3": (1, False)}

    async def check_a_retired_master_key_wraps_nothing(self) -> None:
        """Neither a new row nor one that another wrapped; what it has wrapped can be read still."""
        await self.rows.add(row("a"))
        await self.rows.add(row("b", "m2"))
        await self.rows.retire(["m1"], first="m2")
        assert (await raises(KeyRetired, self.other.add(row("c")))).master_id == "m1"
        await raises(KeyRetired, self.other.rewrap(row("b", "m1", b"back"), b"wrapped"))
        await raises(KeyRetired, self.other.rewrap(row("a", "m1", b"again"), b"wrapped"))
        assert {**await self.other.find(["a", "b", "c"])} == {"a": row("a"), "b": row("b", "m2")}
        assert await self.rows.rewrap(row("a", "m2", b"second"), b"wrapped")
        assert await self.uses() == {"m1": (0, True), "m2": (2, False)}

    async def check_retiring_is_for_good(self) -> None:
        """A second time changes nothing, not even since when; and what wraps from now on is not retired with others."""
        await self.rows.retire(["m1", "m2"], first="m2")
        before = {each.id: each for each in await self.rows.masters()}
        await self.rows.retire(["m1"], first="m2")
        assert {each.id: each for each in await self.rows.masters()} == before
        assert await self.uses() == {"m1": (0, True), "m2": (0, False)}

    async def check_two_cannot_retire_each_others_key(self) -> None:
        """Rotations to different keys: one of them is refused, and changes nothing."""
        outcomes = await asyncio.gather(
            self.rows.retire(["m1", "m3"], first="m2"),
            self.other.retire(["m2", "m4"], first="m1"),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes if each is not None] == [KeyRetired]
        uses = await self.uses()
        retired = {name for name, (_, is_retired) in uses.items() if is_retired}
        assert retired in ({"m1", "m3"}, {"m2", "m4"})

    async def check_no_row_slips_in_while_its_master_key_is_retired(self) -> None:
        """Added or wrapped anew at that very moment: it is there for who looks afterwards, or it is refused."""
        for number in range(20):
            old, new = f"old{number}", f"new{number}"
            await self.rows.add(row(f"r{number}", new))
            wrapping = [
                self.rows.add(row(f"a{number}", old)),
                self.other.rewrap(row(f"r{number}", old, b"back"), b"wrapped"),
                self.other.add(row(f"b{number}", old)),
            ]
            retiring = self.retired_and_counted(old, new)
            calls = [*wrapping, retiring] if number % 2 else [retiring, *wrapping]
            outcomes: list[Any] = list(await asyncio.gather(*calls, return_exceptions=True))
            seen = outcomes.pop(-1 if number % 2 else 0)
            assert all(isinstance(each, KeyRetired) for each in outcomes if each not in (None, True))
            assert (await self.uses())[old] == (seen, True)

    async def check_limits(self) -> None:
        """No call does any number of things."""
        for limit in (0, -1, DATA_KEYS_LISTED_MAX + 1):
            await raises(ValueError, self.rows.list(limit=limit))
        await raises(ValueError, self.rows.find(["x"] * (DATA_KEYS_LISTED_MAX + 1)))
        await raises(ValueError, self.rows.outdated(["x"] * (DATA_KEYS_LISTED_MAX + 1)))

    async def retired_and_counted(self, old: str, new: str) -> int:
        """Retire a master key, and count what it wraps then."""
        await self.other.retire([old], first=new)
        return (await self.uses())[old][0]

    async def uses(self) -> dict[str, tuple[int, bool]]:
        """How many rows each master key wraps, and whether it is retired."""
        found: list[MasterKeyUse] = list(await self.other.masters())
        assert [each.id for each in found] == sorted(each.id for each in found)
        return {each.id: (each.rows, each.retired_at is not None) for each in found}


def row(key_id: str, master_id: str = "m1", wrapped: bytes = b"wrapped") -> DataKeyRow:
    """A row; nothing here looks into what is wrapped."""
    return DataKeyRow(key_id, master_id, wrapped)


async def raises(error: type[Exception], call: Any) -> Any:
    """A call must fail so; returns the error."""
    try:
        result = await call
    except error as fault:
        return fault
    raise AssertionError(f"{error.__name__} was expected, not {result!r}")
