"""The data keys of a server: one from the start, others when they are met; and rotations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fix_key_ring import PLACE, Servers, opened, sealer_of
from fix_secrets import NEW, OLD, entropy
from holdfast.audit.chain import AuditNote
from holdfast.audit.log import AuditLog
from holdfast.errors import KeyMissing, KeyRetired, TierUnavailable
from holdfast.protocols import DataKeyRow
from holdfast.sensitivity import rotating
from holdfast.sensitivity.key_keeper import FELL_BACK
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.sensitivity.master_keys import MasterKeys, master_key_line
from holdfast.sensitivity.rotating import Rotated, rotate
from holdfast.testing import MemoryAudit, MemoryKeys, MemoryStorage


async def test_without_master_keys_there_is_nothing_to_do() -> None:
    """L3 is not even asked."""
    servers = Servers()
    servers.storage.away = True
    ring = await servers.start()
    assert ring.known.sealer is None
    with pytest.raises(TierUnavailable):
        await servers.start(OLD)


async def test_the_first_server_makes_a_key_and_the_others_take_it() -> None:
    """Each has its own salt, so they need not count for one another."""
    servers = Servers()
    one, other = await servers.start(OLD), await servers.start(NEW, OLD)
    assert await servers.uses() == {"old": 1}
    sealed, again = one.known.seal("hush", PLACE), other.known.seal("hush", PLACE)
    assert (sealed.key_id, sealed.salt != again.salt) == (again.key_id, True)
    assert await opened(one, again) == await opened(other, sealed) == "hush"


async def test_a_key_that_is_met_is_loaded() -> None:
    """Once: what is known is not asked for again."""
    servers = Servers()
    reader = await servers.start(OLD, NEW)
    sealed = await servers.make(NEW)
    with pytest.raises(KeyMissing, match="not known here"):
        reader.known.open(sealed, PLACE)
    assert await opened(reader, sealed) == "hush"
    servers.storage.away = True
    assert await opened(reader, sealed) == "hush"


async def test_a_key_that_cannot_be_had_is_told_when_it_is_needed() -> None:
    """Its master key is missing here, or L3 has no such key: what holds it can be read but for that."""
    servers = Servers()
    reader, sealed = await servers.start(OLD), await servers.make(NEW)
    with pytest.raises(KeyMissing, match="wrapped by the master key new: add it to master_keys"):
        await opened(reader, sealed)
    await reader.know(["none"])
    with pytest.raises(KeyMissing, match="data key none is not in L3"):
        reader.known._key_of("none")


async def test_a_master_key_that_is_not_what_it_was_is_found_at_the_start() -> None:
    """Rather than with the first secret that cannot be opened."""
    servers = Servers()
    await servers.start(OLD)
    with pytest.raises(KeyMissing, match="has another key named old"):
        await servers.start(master_key_line("old", b"x" * 32))


async def test_a_server_that_knows_no_key_makes_its_own() -> None:
    """Unless its master key is retired."""
    servers = Servers()
    await servers.start(OLD)
    await servers.start(NEW)
    assert await servers.uses() == {"old": 1, "new": 1}
    await servers.rotate(NEW, OLD)
    with pytest.raises(KeyRetired, match="name another first"):
        await servers.start(OLD)


async def test_a_rotation_leaves_nothing_under_older_keys() -> None:
    """What was sealed before is opened with the new master key alone; servers that run need nothing."""
    servers = Servers()
    running = await servers.start(OLD)
    sealed = [running.known.seal("hush", PLACE), *[await servers.make(OLD) for _ in range(4)]]
    rotated = await servers.rotate(NEW, OLD)
    assert (rotated.first, rotated.rewrapped, rotated.left, rotated.faults) == ("new", 5, 0, ())
    assert rotated.retired == ("old",)
    assert await servers.uses() == {"new": 5, "old": 0}
    fresh = await servers.start(NEW)
    sealed.append(running.known.seal("hush", PLACE))
    assert [await opened(fresh, each) for each in sealed] == ["hush"] * 6
    again = await servers.rotate(NEW, OLD)
    assert (again.rewrapped, again.left) == (0, 0)


async def test_a_rotation_goes_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(rotating, "PAGE_ROWS", 2)
    servers = Servers()
    for _ in range(5):
        await servers.make(OLD)
    assert (await servers.rotate(NEW, OLD)).rewrapped == 5


async def test_a_row_whose_master_key_is_missing_stays() -> None:
    """The others are wrapped anew all the same, and it is told; with the key it goes on."""
    servers = Servers()
    third = master_key_line("third", b"t" * 32)
    for key in (OLD, third, OLD):
        await servers.make(key)
    rotated = await servers.rotate(NEW, OLD)
    assert (rotated.rewrapped, rotated.left, len(rotated.faults)) == (2, 1, 1)
    assert "the master key third: add it" in rotated.faults[0]
    assert (await servers.rotate(NEW, third)).left == 0


async def test_two_rotate_at_once() -> None:
    """To the same key: each row is wrapped anew by one of them."""
    servers = Servers()
    for _ in range(6):
        await servers.make(OLD)
    both = await asyncio.gather(servers.rotate(NEW, OLD), servers.rotate(NEW, OLD))
    assert sum(each.rewrapped for each in both) == 6
    assert [each.left for each in both] == [0, 0]


async def test_a_rotation_to_a_retired_key_changes_nothing() -> None:
    """So two who rotate to different keys do not end with none."""
    servers = Servers()
    await servers.make(OLD)
    await servers.rotate(NEW, OLD)
    with pytest.raises(KeyRetired):
        await servers.rotate(OLD, NEW)
    assert await servers.uses() == {"new": 1, "old": 0}
    await servers.start(NEW)


async def test_a_server_that_starts_in_the_middle_leaves_nothing_behind() -> None:
    """Its row is there before the older key is retired, and is wrapped anew; or it finds it retired."""
    for order in (True, False):
        servers = Servers()
        await servers.make(OLD)
        servers.storage.log.marks = servers.storage.log.marks._replace(data_keys={})
        both = [servers.start(OLD), servers.rotate(NEW, OLD)]
        outcomes = await asyncio.gather(*(both if order else both[::-1]), return_exceptions=True)
        assert all(isinstance(each, KeyRing | Rotated | KeyRetired) for each in outcomes)
        assert (await servers.uses())["old"] == 0


class RetiresNothing(MemoryKeys):
    """Mutant: retiring is not heard by L3."""

    async def retire(self, master_ids: Sequence[str], *, first: str) -> None:
        await super().retire([], first=first)

    async def list(self, *, after: str | None = None, limit: int) -> Sequence[DataKeyRow]:
        page = await super().list(after=after, limit=limit)
        if after is None:
            ring = KeyRing(self, MasterKeys.read([OLD]), entropy(55))
            await ring._made()
        return page


async def test_without_retiring_a_row_is_left() -> None:
    """Mutant: a server that makes its key while rows are wrapped anew makes it under the older one."""
    storage = MemoryStorage()
    audit = AuditLog(MemoryAudit(storage), server="a")
    rotated = await rotate(RetiresNothing(storage), MasterKeys.read([NEW, OLD]), entropy(), print, audit=audit)
    assert rotated.left == 1


async def test_a_rotation_is_recorded_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """From which keys to which, and of how many rows; what cannot be recorded is not begun."""
    servers = Servers()
    for _ in range(3):
        await servers.make(OLD)

    async def full(_: MemoryAudit, note: AuditNote) -> None:
        raise TierUnavailable(f"no room for {note.action}")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryAudit, "append", full)
        with pytest.raises(TierUnavailable, match="no room for rotated"):
            await servers.rotate(NEW, OLD)
    assert await servers.uses() == {"old": 3}
    await servers.start(OLD)
    await servers.rotate(NEW, OLD)
    await servers.rotate(NEW, OLD)
    assert servers.noted() == [
        ("a", "master_key:old->new", '{"data_keys":3}'),
        ("a", "master_key:new", '{"data_keys":0}'),
    ]


async def test_after_a_rotation_a_new_data_key_seals() -> None:
    """On who starts, and on who runs once it looks. The older master key and a copy of L3 from before open none of it.

    Whoever looks again keeps what it seals with, and the salt it has drawn.
    """
    servers = Servers()
    running = await servers.start(OLD, NEW)
    before, copied = running.known.seal("hush", PLACE), servers.storage.log.marks
    await servers.rotate(NEW, OLD)
    fresh = await servers.start(NEW)
    await running.renew()
    assert sealer_of(running) == sealer_of(fresh) != before.key_id
    after, sealer = running.known.seal("hush", PLACE), running.known.sealer
    await running.renew()
    assert running.known.sealer is sealer
    assert await servers.uses() == {"new": 2, "old": 0}
    assert [await opened(fresh, each) for each in (before, after)] == ["hush"] * 2
    thief = Servers()
    thief.storage.log.marks = copied
    ring = await thief.start(OLD)
    assert await opened(ring, before) == "hush"
    with pytest.raises(KeyMissing):
        await opened(ring, after)


async def test_servers_that_look_at_once_come_to_seal_with_one_key() -> None:
    """Each may have made one; with the next look all take the newest."""
    servers = Servers()
    running = [await servers.start(NEW, OLD) for _ in range(3)]
    await servers.rotate(NEW, OLD)
    await asyncio.gather(*(each.renew() for each in running))
    for each in running:
        await each.renew()
    assert len({sealer_of(each) for each in running}) == 1
    assert (await servers.uses())["new"] <= 4


async def test_a_server_whose_first_master_key_is_retired_seals_on(caplog: pytest.LogCaptureFixture) -> None:
    """It is late, not broken: with the older data key, of which it warns, until somebody has made a new one."""
    servers = Servers()
    running = await servers.start(OLD, NEW)
    before = sealer_of(running)
    await servers.rotate(NEW, OLD)
    for each in (running, await servers.start(OLD, NEW)):
        caplog.clear()
        await each.renew()
        assert sealer_of(each) == before
        assert f"data key {before} goes on sealing" in caplog.text
    fresh = await servers.start(NEW)
    await running.renew()
    assert sealer_of(running) == sealer_of(fresh)


async def test_rows_that_fell_back_are_wrapped_anew() -> None:
    """By who knows the key, or has the older master key; a row that neither can open stays as it is."""
    servers = Servers()
    await servers.start(OLD)
    met, unmet = await servers.make(OLD), await servers.make(OLD)
    copied = servers.storage.log.marks
    await servers.rotate(NEW, OLD)
    knowing, having = await servers.start(NEW), await servers.start(NEW, OLD)
    assert await opened(knowing, met) == "hush"
    servers.storage.log.marks = copied
    assert await servers.put_right(knowing) == 1
    assert await servers.uses() == {"new": 2, "old": 2}  # with the one that it has sealed with since the rotation
    assert await servers.put_right(having) == 2
    assert await servers.put_right(knowing) == await servers.put_right(having) == 0
    assert await servers.uses() == {"new": 4, "old": 0}
    fresh = await servers.start(NEW)
    assert [await opened(fresh, each) for each in (met, unmet)] == ["hush"] * 2
    notes = [entry.note for entry in servers.storage.log.marks.audit]
    assert {(each.action, each.actor, each.subject, each.reason) for each in notes} == {
        ("rotated", "a", "master_key:old->new", FELL_BACK)
    }
    assert [each.detail for each in notes] == ['{"data_keys":1}', '{"data_keys":2}']
    assert all(each.retired_at is None for each in await servers.rows.masters())


async def test_servers_wrap_anew_at_once() -> None:
    """Each row is replaced by one of them."""
    servers = Servers()
    for _ in range(6):
        await servers.make(OLD)
    both = [await servers.start(NEW, OLD) for _ in range(2)]
    assert sum(await asyncio.gather(*(servers.put_right(each) for each in both))) == 6
    assert await servers.uses() == {"new": 6, "old": 0}


async def test_servers_whose_first_master_keys_differ_wrap_anew_at_once() -> None:
    """While a rotation is prepared, some name the newer one first. Whichever is faster, no row is lost."""
    servers = Servers()
    sealed = [await servers.make(each) for each in (OLD, NEW) * 3]
    both = [await servers.start(NEW, OLD), await servers.start(OLD, NEW)]
    await asyncio.gather(*(servers.put_right(each) for each in both))
    assert [await opened(each, one) for each in both for one in sealed] == ["hush"] * 12
    await servers.rotate(NEW, OLD)
    assert [await opened(await servers.start(NEW), each) for each in sealed] == ["hush"] * 6


async def test_a_server_that_is_late_wraps_nothing_by_a_retired_key() -> None:
    """Neither now, nor when L3 does not know any more that it is retired; and it records nothing."""
    servers = Servers()
    late, retired = await servers.start(OLD, NEW), await servers.make(NEW)
    copied = servers.storage.log.marks
    await servers.rotate(NEW, OLD)
    for marks in (servers.storage.log.marks, copied):
        servers.storage.log.marks = marks
        with pytest.raises(KeyRetired):
            await servers.put_right(late)
        assert servers.storage.log.marks == marks
    assert await opened(await servers.start(NEW), retired) == "hush"


async def test_without_master_keys_nothing_is_wrapped_anew() -> None:
    """A server that seals nothing leaves the keys of others alone."""
    servers = Servers()
    await servers.make(OLD)
    assert await servers.put_right(await servers.start()) == 0
