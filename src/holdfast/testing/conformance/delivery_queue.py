"""The contract of `DeliveryQueue`: who may bring out what, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Final, Protocol

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.documents import Delivery, encode
from holdfast.keys import Key
from holdfast.protocols import AuditRows, DeliveryQueue, DeliveryRow, Storage, Write
from holdfast.protocols.deliveries import LISTED_MAX

LEASE_SECONDS: Final = 60.0
CRM: Final = ("crm",)


class DeliveryQueues(Protocol):
    """Makes what a check needs, over one L3 without deliveries."""

    @property
    def storage(self) -> Storage:
        """Its rows."""
        ...

    @property
    def audit(self) -> AuditRows:
        """Its audit log."""
        ...

    def queue(self) -> DeliveryQueue:
        """What one more server sees of deliveries."""
        ...

    async def age(self, seconds: float) -> None:
        """Let it be so much later for all deliveries."""
        ...


class DeliveryQueueSuite:
    """The checks."""

    def __init__(self, queues: DeliveryQueues) -> None:
        self.queues = queues
        self.storage = queues.storage
        self.queue, self.other = queues.queue(), queues.queue()

    async def check_a_new_delivery_is_due(self) -> None:
        """To those who have its exporter, with its row's birth and body."""
        await self.put("a", "b", exporter="crm")
        await self.put("c", exporter="mail")
        assert await self.claimed(self.queue, ("sms",)) == []
        assert await self.claimed(self.queue, ()) == []
        rows = await self.queue.claim(CRM, limit=10, lease_seconds=LEASE_SECONDS)
        loaded = (await self.storage.load([Key("delivery", "a"), Key("delivery", "b")])).rows
        assert {row.id: (row.birth, row.body, row.attempts) for row in rows} == {
            key.id: (held.birth, held.body, 1) for key, held in loaded.items()
        }

    async def check_any_text_can_be_in_a_delivery(self) -> None:
        """A NUL, quotes, backslashes: its exporter is found."""
        body = rb"""{"value": "\u0000 \\u0000 ' \" \\\u0000", "exporter": "crm"}"""
        await self.storage.save([Write(Key("delivery", "a"), 1, body)])
        assert await self.claimed(self.queue) == ["a"]

    async def check_nobody_claims_what_another_has(self) -> None:
        """Before the lease is over; then anybody does, as one attempt more."""
        await self.put("a")
        assert await self.claimed(self.queue) == ["a"]
        assert await self.claimed(self.other) == []
        await self.queues.age(LEASE_SECONDS - 5)
        assert await self.claimed(self.other) == []
        await self.queues.age(10)
        (row,) = await self.other.claim(CRM, limit=10, lease_seconds=LEASE_SECONDS)
        assert (row.id, row.attempts) == ("a", 2)

    async def check_claims_at_once_get_different_ones(self) -> None:
        """None is claimed twice, and none is left, however many servers ask."""
        names = [f"d{number:02}" for number in range(20)]
        await self.put(*names)
        queues = [self.queues.queue() for _ in range(8)]
        found = await asyncio.gather(*(self.claimed(queue, limit=5) for queue in queues))
        rest = await self.claimed(self.queue, limit=100)
        assert sorted(name for each in [*found, rest] for name in each) == names

    async def check_the_longest_due_come_first(self) -> None:
        """So none waits for ever behind others."""
        await self.put("b")
        await self.queues.age(5)
        await self.put("a")
        assert await self.claimed(self.queue, limit=1) == ["b"]
        assert await self.claimed(self.queue, limit=1) == ["a"]

    async def check_what_was_delivered_is_gone(self) -> None:
        """Also if somebody has claimed it meanwhile; a later one of its id is another."""
        await self.put("a")
        row = await self.one()
        await self.queues.age(LEASE_SECONDS + 1)
        again = await self.one(self.other)
        assert await self.queue.delivered("a", row.birth)
        assert not await self.other.delivered("a", again.birth)
        assert not await self.other.failed(again, "late", again_seconds=None)
        assert await self.queue.list(limit=10) == []
        await self.put("a")
        assert not await self.queue.delivered("a", row.birth)
        assert await self.claimed(self.queue) == ["a"]

    async def check_a_failed_one_waits(self) -> None:
        """As long as was said; its error is told."""
        await self.put("a")
        row = await self.one()
        assert await self.queue.failed(row, "no route", again_seconds=30.0)
        assert await self.claimed(self.other) == []
        (listed,) = await self.other.list(limit=10)
        assert (listed.error, listed.attempts, listed.dead) == ("no route", 1, False)
        assert 0 < listed.wait_seconds <= 30
        await self.queues.age(31)
        assert (await self.one(self.other)).attempts == 2

    async def check_who_lost_the_lease_tells_nothing(self) -> None:
        """Its failure is not the one of who tries now."""
        await self.put("a")
        row = await self.one()
        await self.queues.age(LEASE_SECONDS + 1)
        await self.one(self.other)
        assert not await self.queue.failed(row, "late", again_seconds=None)
        (listed,) = await self.queue.list(limit=10)
        assert (listed.error, listed.dead) == (None, False)

    async def check_a_retry_waits_for_who_is_at_it(self) -> None:
        """Nobody is called twice at once; then it is due, with all its attempts, whatever that one came to."""
        await self.put("a", "b")
        for row in await self.queue.claim(CRM, limit=10, lease_seconds=LEASE_SECONDS):
            assert await self.other.retry(row.id)
        assert await self.claimed(self.other) == []
        rows = {row.id: row for row in await self.queue.list(limit=10)}
        assert [rows[name].attempts for name in "ab"] == [0, 0]
        assert all(0 < row.wait_seconds <= LEASE_SECONDS for row in rows.values())
        failed = msgspec.structs.replace(rows["a"], attempts=1)
        assert not await self.queue.failed(failed, "no route", again_seconds=None)
        again = await self.one(self.other)
        assert (again.id, again.attempts, again.dead, again.error) == ("a", 1, False, "no route")
        await self.queues.age(LEASE_SECONDS + 1)
        assert await self.claimed(self.other) == ["a", "b"]

    async def check_an_attempt_that_is_broken_off_is_none(self) -> None:
        """It is due at once, and was not tried; why it failed before is told still."""
        await self.put("a")
        assert await self.queue.failed(await self.one(), "no route", again_seconds=0.0)
        row = await self.one()
        assert await self.queue.broken_off(row)
        (listed,) = await self.other.list(limit=10)
        assert (listed.attempts, listed.error, listed.dead, listed.lease) == (1, "no route", False, 0.0)
        assert not await self.queue.broken_off(row)
        assert not await self.queue.failed(row, "late", again_seconds=None)
        assert (await self.one(self.other)).attempts == 2

    async def check_who_lost_the_lease_breaks_nothing_off(self) -> None:
        """Neither what another has claimed, nor what is gone; of one begun anew with it takes nothing away."""
        await self.put("a")
        row = await self.one()
        await self.queues.age(LEASE_SECONDS + 1)
        again = await self.one(self.other)
        assert not await self.queue.broken_off(row)
        assert await self.claimed(self.queue) == []
        assert await self.queue.retry("a")
        assert await self.other.broken_off(again)
        assert (await self.one()).attempts == 1
        assert await self.queue.discard("a")
        assert not await self.other.broken_off(again)

    async def check_an_attempt_of_before_a_retry_is_another(self) -> None:
        """Though both are the first."""
        await self.put("a")
        row = await self.one()
        assert await self.other.retry("a")
        await self.queues.age(LEASE_SECONDS + 1)
        again = await self.one(self.other)
        assert (row.attempts, again.attempts) == (1, 1)
        assert not await self.queue.failed(row, "late", again_seconds=0.0)
        assert await self.claimed(self.queue) == []
        assert await self.other.failed(again, "no route", again_seconds=0.0)

    async def check_what_nobody_takes_is_told(self) -> None:
        """By exporter; not what waits for its time, nor the dead."""
        await self.put("a", "b", exporter="sms")
        await self.put("c", "d", "e")
        await self.queues.age(10)
        waiting, dead, _ = await self.queue.claim(CRM, limit=10, lease_seconds=LEASE_SECONDS)
        assert await self.queue.failed(waiting, "no route", again_seconds=30.0)
        assert await self.queue.failed(dead, "no route", again_seconds=None)
        assert await self.other.neglected(5.0) == {"sms": 2}
        assert await self.other.neglected(15.0) == {}
        await self.queues.age(LEASE_SECONDS)
        assert await self.other.neglected(15.0) == {"crm": 1, "sms": 2}

    async def check_the_dead_are_kept(self) -> None:
        """Nobody claims them, until a person has them tried anew, or discards them."""
        await self.put("a", "b")
        for row in await self.queue.claim(CRM, limit=10, lease_seconds=LEASE_SECONDS):
            assert await self.queue.failed(row, "no route", again_seconds=None)
        await self.queues.age(10_000)
        assert await self.claimed(self.queue) == []
        assert [row.id for row in await self.other.list(dead=True, limit=10)] == ["a", "b"]
        assert await self.other.list(dead=False, limit=10) == []
        assert await self.other.retry("a")
        assert [row.id for row in await self.queue.list(dead=True, limit=10)] == ["b"]
        assert (await self.one()).attempts == 1
        assert await self.other.discard("b")
        assert [row.id for row in await self.queue.list(limit=10)] == ["a"]
        assert not await self.other.discard("b")
        assert not await self.other.retry("b")

    async def check_what_is_done_by_hand_is_recorded_if_it_is_done(self) -> None:
        """With it: there is no entry for a delivery that is not there."""
        await self.put("a")
        note = AuditNote(action="replayed", subject="delivery:a", actor="ada", reason="why", detail='{"it": "\\u00e4"}')
        gone = msgspec.structs.replace(note, action="discarded")
        assert not await self.queue.retry("b", note)
        assert await self.queue.retry("a", note)
        assert await self.queue.discard("a", gone)
        assert not await self.queue.discard("a", gone)
        assert [entry.note for entry in await self.queues.audit.list(after=0, limit=10)] == [note, gone]

    async def check_they_are_listed_by_pages(self) -> None:
        """In order of ids; a limit that is none is refused."""
        await self.put("c", "a", "b")
        assert [row.id for row in await self.queue.list(limit=2)] == ["a", "b"]
        assert [row.id for row in await self.queue.list(after="b", limit=2)] == ["c"]
        for limit in (0, LISTED_MAX + 1):
            await _refused(self.queue.list(limit=limit))
            await _refused(self.queue.claim(CRM, limit=limit, lease_seconds=1.0))

    async def put(self, *names: str, exporter: str = "crm") -> None:
        """Write deliveries, as runs that complete do."""
        delivery = Delivery(run_id="r1", routine_id="search", key="x", value=1, exporter=exporter)
        await self.storage.save([Write(Key("delivery", name), 1, encode(delivery)) for name in names])

    async def claimed(self, queue: DeliveryQueue, exporters: Collection[str] = CRM, limit: int = 10) -> Sequence[str]:
        """The ids that a claim gets."""
        rows = await queue.claim(exporters, limit=limit, lease_seconds=LEASE_SECONDS)
        return sorted(row.id for row in rows)

    async def one(self, queue: DeliveryQueue | None = None) -> DeliveryRow:
        """The one that is due, claimed."""
        (row,) = await (queue or self.queue).claim(CRM, limit=10, lease_seconds=LEASE_SECONDS)
        return row


async def _refused(call: Awaitable[object]) -> None:
    try:
        await call
    except ValueError:
        return
    raise AssertionError("a limit that is none was taken")
