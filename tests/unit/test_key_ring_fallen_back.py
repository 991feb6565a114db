"""What seals when L3 has fallen back to before a rotation: never again a data key that was outdated once."""

from __future__ import annotations

import pytest

from fix_key_ring import PLACE, Servers, opened, sealer_of
from fix_secrets import NEW, OLD
from holdfast.documents import Sealed
from holdfast.errors import KeyMissing
from holdfast.sensitivity.key_ring import KeyRing


class FellBack(Servers):
    """A rotation, and an L3 that can be put back to before it.

    Attributes:
        before: sealed before it, when L3 was as `copied`.
    """

    async def rotated(self) -> KeyRing:
        """A server that has started after a rotation, and makes the data key of then."""
        self.empty = self.storage.log.marks
        one = await self.start(OLD)
        self.before, self.copied = one.known.seal("hush", PLACE), self.storage.log.marks
        await self.rotate(NEW, OLD)
        ring = await self.start(NEW, OLD)
        assert sealer_of(ring) != self.before.key_id
        return ring

    async def check_sealed_anew(self, ring: KeyRing) -> None:
        """Who has the older master key, and a copy of L3 from before the rotation, opens nothing that is sealed now."""
        sealed: Sealed = ring.known.seal("after", PLACE)
        thief = Servers()
        thief.storage.log.marks = self.copied
        with pytest.raises(KeyMissing):
            await opened(await thief.start(OLD), sealed)


async def test_what_was_outdated_seals_no_more() -> None:
    """Though L3 does not know it any more, and has the newer key not back yet."""
    servers = FellBack()
    ring = await servers.rotated()
    servers.storage.log.marks = servers.copied
    await ring.renew()
    await servers.check_sealed_anew(ring)
    await servers.put_right(ring)
    for each in (ring, await servers.start(NEW)):
        await each.renew()
        await servers.check_sealed_anew(each)


@pytest.mark.parametrize("makes", [True, False], ids=["it made the newer key", "it found it"])
async def test_what_is_outdated_is_given_back_first(*, makes: bool) -> None:
    """L3 has lost both; a server that has met the newer one first gives them back, and one starts without memory."""
    servers = FellBack()
    ring = await servers.rotated()
    if not makes:
        ring = await servers.start(NEW)
    assert await opened(ring, servers.before) == "hush"
    after = ring.known.seal("hush", PLACE)
    servers.storage.log.marks = servers.empty
    await servers.put_right(ring)
    fresh = await servers.start(NEW)
    assert [await opened(fresh, each) for each in (servers.before, after)] == ["hush"] * 2
    await ring.renew()
    assert sealer_of(fresh) == sealer_of(ring) == after.key_id


async def test_where_an_outdated_key_is_given_back_last_a_new_one_is_made() -> None:
    """By a server that remembers; one that has started in between takes it with its next look."""
    servers = FellBack()
    ring, other = await servers.rotated(), await servers.start(NEW)
    await opened(other, servers.before)
    servers.storage.log.marks = servers.empty
    await servers.put_right(ring)
    await servers.put_right(other)
    fresh = await servers.start(NEW)
    assert sealer_of(fresh) == servers.before.key_id
    for each in (other, fresh, ring):
        await each.renew()
        await servers.check_sealed_anew(each)
    assert sealer_of(other) == sealer_of(fresh) == sealer_of(ring)


async def test_a_late_server_goes_on_sealing_with_the_newer_key() -> None:
    """Its first master key is retired, which L3 has forgotten: a new data key would be under that one."""
    servers = FellBack()
    made = sealer_of(await servers.rotated())
    late = await servers.start(OLD, NEW)
    await opened(late, servers.before)
    assert sealer_of(late) == made
    servers.storage.log.marks = servers.copied
    await late.renew()
    assert sealer_of(late) == made
    assert await servers.uses() == {"old": 1}
