"""The contract of `EventTransport`, rule by rule."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from holdfast.events import PRIORITIES
from holdfast.protocols import Append, Dead, EventTransport, Exchange, Exchanged, Handed, Replayed

RANKS = len(PRIORITIES)
PLACE = 1
DEADLINE_SECONDS = 20.0
BACKLOG_MAX = 8
"""What the transports of a harness must have as their limit."""


class EventServers(Protocol):
    """Servers that share what carries their events."""

    def transport(self) -> EventTransport:
        """That of one more server, with a backlog of `BACKLOG_MAX`; whoever made the harness closes it."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        ...

    async def lose_stream(self, partition: int, rank: int) -> None:
        """Lose what lies in a partition with one priority, and all readers' positions in it."""
        ...


class EventTransportSuite:
    """Checks an `EventTransport`.

    Attributes:
        deadline_seconds: for what must happen soon.
    """

    deadline_seconds = DEADLINE_SECONDS

    def __init__(self, servers: EventServers) -> None:
        self.servers = servers
        self.transport = servers.transport()

    async def check_events_are_handed_out_by_priority_and_in_order(self) -> None:
        """The most urgent first; within a priority, as they were appended; each once."""
        epoch = (await self.exchange()).epoch
        await self.append(b"low-1", rank=3)
        await self.append(b"high-1", b"high-2", rank=1)
        await self.append(b"low-2", rank=3)
        assert bodies(await self.exchange(epoch=epoch)) == [b"high-1", b"high-2", b"low-1", b"low-2"]
        assert bodies(await self.exchange(epoch=epoch)) == []

    async def check_what_was_appended_before_a_reader_is_not_for_it(self) -> None:
        """A reader begins behind all that is there; the call that makes it says so."""
        await self.exchange(reader="first")
        await self.append(b"before")
        made = await self.exchange()
        assert made.created
        assert bodies(made) == []
        await self.append(b"after")
        found = await self.exchange(epoch=made.epoch)
        assert not found.created
        assert bodies(found) == [b"after"]

    async def check_each_reader_gets_everything(self) -> None:
        """Readers do not take from each other."""
        epochs = {reader: (await self.exchange(reader=reader)).epoch for reader in ("one", "two")}
        await self.append(b"x")
        for reader, epoch in epochs.items():
            assert bodies(await self.exchange(reader=reader, epoch=epoch)) == [b"x"]

    async def check_room_is_a_limit(self) -> None:
        """No more of a priority is handed out than there is room for it."""
        epoch = (await self.exchange()).epoch
        await self.append(b"1", b"2", b"3", rank=2)
        assert bodies(await self.exchange(epoch=epoch, room=(5, 5, 2, 5))) == [b"1", b"2"]
        assert bodies(await self.exchange(epoch=epoch, room=(5, 5, 0, 5))) == []
        assert bodies(await self.exchange(epoch=epoch)) == [b"3"]

    async def check_what_is_not_settled_is_handed_out_anew_when_asked(self) -> None:
        """With how often it was; what is settled does not come again."""
        epoch = (await self.exchange()).epoch
        await self.append(b"1", b"2")
        first = await self.exchange(epoch=epoch)
        again = await self.exchange(epoch=epoch, settled=first.events[:1], renewed=True)
        assert [(event.body, event.times) for event in again.events] == [(b"2", 2)]

    async def check_only_one_owner_at_a_time(self) -> None:
        """Another gets nothing while the lease lasts, though it is counted."""
        await self.exchange(owner="a")
        await self.append(b"x")
        refused = await self.exchange(owner="b")
        assert (refused.epoch, refused.members, bodies(refused)) == (0, 2, [])

    async def check_a_lease_ends(self) -> None:
        """Then another owner is handed what the one before had not settled, in the order of its appending."""
        epoch = (await self.exchange(owner="a", lease=0.4)).epoch
        await self.append(b"1", b"2", b"3")
        held = await self.exchange(owner="a", epoch=epoch, room=(2,) * RANKS, lease=0.4)
        await self.exchange(owner="a", epoch=epoch, settled=held.events[:1], room=(0,) * RANKS, lease=0.4)
        await self.servers.wait(0.6)
        taken = await self.exchange(owner="b", epoch=0)
        assert taken.epoch > epoch
        assert taken.members == 1
        assert [(event.body, event.times) for event in taken.events] == [(b"2", 2), (b"3", 1)]

    async def check_one_who_is_gone_is_no_longer_counted(self) -> None:
        """Though others call all the time."""
        await self.exchange(owner="gone", lease=0.4)
        assert (await self.exchange(owner="stays")).members == 2
        await self.servers.wait(0.6)
        assert (await self.exchange(owner="stays")).members == 1

    async def check_an_owner_that_was_replaced_settles_nothing(self) -> None:
        """It is told that it is none any more, and what it tells is ignored, dead letters too."""
        epoch = (await self.exchange(owner="a", lease=0.4)).epoch
        await self.append(b"1", b"2")
        held = await self.exchange(owner="a", epoch=epoch, lease=0.4)
        await self.servers.wait(0.6)
        taken = await self.exchange(owner="b")
        one, two = held.events
        late = await self.exchange(owner="a", epoch=epoch, settled=[one], dead=[Dead(two.rank, two.entry, "late", 5)])
        assert late.epoch == 0
        again = await self.exchange(owner="b", epoch=taken.epoch, renewed=True)
        assert bodies(again) == [b"1", b"2"]
        assert await self.transport.dead_letters(PLACE, limit=10) == []

    async def check_an_owner_goes_on_after_its_lease_if_nobody_came(self) -> None:
        """A pause alone costs nothing."""
        epoch = (await self.exchange(lease=0.3)).epoch
        await self.servers.wait(0.5)
        assert (await self.exchange(epoch=epoch)).epoch == epoch

    async def check_leaving_lets_another_own_it_at_once(self) -> None:
        """Without waiting for the lease; the position stays."""
        epoch = (await self.exchange(owner="a")).epoch
        await self.append(b"x")
        await self.transport.leave(PLACE, "reader", "a", forget=False)
        taken = await self.exchange(owner="b")
        assert taken.epoch > epoch
        assert not taken.created
        assert bodies(taken) == [b"x"]

    async def check_one_who_does_not_own_it_cannot_give_it_up(self) -> None:
        """The owner stays."""
        epoch = (await self.exchange(owner="a")).epoch
        await self.transport.leave(PLACE, "reader", "b", forget=False)
        assert (await self.exchange(owner="b")).epoch == 0
        assert (await self.exchange(owner="a", epoch=epoch)).epoch == epoch

    async def check_a_reader_that_ends_is_forgotten(self) -> None:
        """With its position: it begins anew."""
        await self.exchange()
        await self.append(b"x")
        await self.transport.leave(PLACE, "reader", "owner", forget=True)
        made = await self.exchange()
        assert made.created
        assert bodies(made) == []

    async def check_an_idle_reader_is_forgotten(self) -> None:
        """After its time, whoever sweeps; one that calls is not."""
        await self.exchange(reader="gone", idle=0.3)
        epoch = (await self.exchange(reader="stays", idle=60.0)).epoch
        await self.servers.wait(0.5)
        await self.transport.sweep(PLACE)
        assert (await self.exchange(reader="gone")).created
        assert not (await self.exchange(reader="stays", epoch=epoch)).created

    async def check_a_reader_whose_place_is_lost_goes_on(self) -> None:
        """It is told so, and handed what was appended since, and anew what it held of other priorities."""
        epoch = (await self.exchange()).epoch
        await self.append(b"urgent", rank=0)
        await self.append(b"lost")
        held = await self.exchange(epoch=epoch)
        assert bodies(held) == [b"urgent", b"lost"]
        await self.servers.lose_stream(PLACE, 2)
        await self.append(b"since")
        found = await self.exchange(epoch=epoch)
        assert (found.created, found.epoch) == (True, epoch)
        assert bodies(found) == [b"urgent", b"since"]
        await self.append(b"later")
        again = await self.exchange(epoch=epoch, settled=found.events)
        assert not again.created
        assert bodies(again) == [b"later"]

    async def check_what_a_lost_place_needs_is_not_swept(self) -> None:
        """Neither by those who know of no reader of the stream, nor by another reader that is done with it."""
        epochs = {reader: (await self.exchange(reader=reader)).epoch for reader in ("one", "two")}
        await self.servers.lose_stream(PLACE, 2)
        await self.append(b"since")
        await self.transport.sweep(PLACE)
        found = await self.exchange(reader="one", epoch=epochs["one"])
        assert bodies(found) == [b"since"]
        await self.exchange(reader="one", epoch=epochs["one"], settled=found.events)
        await self.transport.sweep(PLACE)
        assert bodies(await self.exchange(reader="two", epoch=epochs["two"])) == [b"since"]

    async def check_a_full_backlog_refuses(self) -> None:
        """Each event for itself, by priority, until a reader has settled some."""
        epoch = (await self.exchange()).epoch
        numbers = [b"%d" % number for number in range(BACKLOG_MAX)]
        assert all(await self.append(*numbers))
        assert await self.append(b"more") == [False]
        assert await self.append(b"urgent", rank=0) == [True]
        held = await self.exchange(epoch=epoch, room=(0, 0, 50, 0))
        assert bodies(held) == numbers
        await self.exchange(epoch=epoch, settled=held.events[:3], room=(0,) * RANKS)
        assert await self.append(*[b"%d" % number for number in range(4)]) == [True, True, True, False]

    async def check_only_what_all_are_done_with_makes_room(self) -> None:
        """The slowest reader decides, until it is forgotten."""
        fast = (await self.exchange(reader="fast", idle=60.0)).epoch
        await self.exchange(reader="slow", idle=0.5)
        await self.append(*[b"x"] * BACKLOG_MAX)
        held = await self.exchange(reader="fast", epoch=fast, room=(50,) * RANKS)
        await self.exchange(reader="fast", epoch=fast, settled=held.events, idle=60.0)
        assert await self.append(b"more") == [False]
        await self.servers.wait(0.7)
        assert await self.append(b"more") == [True]

    async def check_events_without_a_reader_are_nobodys(self) -> None:
        """They are not kept, however many there are."""
        for _ in range(3):
            assert all(await self.append(*[b"x"] * BACKLOG_MAX))

    async def check_dead_letters_are_kept_replayed_and_discarded(self) -> None:
        """With their reason; a replayed one comes again, marked, for its reader only."""
        epoch = (await self.exchange()).epoch
        await self.append(b"1", b"2")
        one, two = (await self.exchange(epoch=epoch)).events
        dead = [Dead(each.rank, each.entry, f"because {each.body!r}", 5) for each in (one, two)]
        await self.exchange(epoch=epoch, dead=dead)
        first, second = await self.transport.dead_letters(PLACE, limit=10)
        assert (first.reader, first.reason, first.attempts, first.body) == ("reader", "because b'1'", 5, b"1")
        assert await self.transport.dead_letters(PLACE, limit=1) == [first]
        assert await self.transport.replay(PLACE, first.letter) is Replayed.DONE
        assert await self.transport.discard(PLACE, second.letter)
        assert await self.transport.replay(PLACE, first.letter) is Replayed.NOT_THERE
        assert not await self.transport.discard(PLACE, second.letter)
        (again,) = (await self.exchange(epoch=epoch, renewed=True)).events
        assert (again.body, again.repeat, again.only) == (b"1", True, "reader")

    async def check_a_dead_letter_whose_reader_ended_is_kept(self) -> None:
        """It would come to nobody; it can be discarded, and replayed once there is such a reader again."""
        await self.exchange(reader="another")
        letter = await self.given_up()
        await self.transport.leave(PLACE, "reader", "owner", forget=True)
        assert await self.transport.replay(PLACE, letter) is Replayed.READER_GONE
        assert [each.letter for each in await self.transport.dead_letters(PLACE, limit=10)] == [letter]
        epoch = (await self.exchange()).epoch
        assert await self.transport.replay(PLACE, letter) is Replayed.DONE
        assert bodies(await self.exchange(epoch=epoch)) == [b"given up"]

    async def check_a_dead_letter_whose_reader_was_idle_too_long_is_kept(self) -> None:
        """Also before anybody swept."""
        letter = await self.given_up(idle=0.3)
        await self.servers.wait(0.5)
        assert await self.transport.replay(PLACE, letter) is Replayed.READER_GONE
        assert await self.transport.discard(PLACE, letter)

    async def check_a_dead_letter_without_room_is_kept(self) -> None:
        """It can be replayed once there is room."""
        letter = await self.given_up()
        await self.append(*[b"x"] * BACKLOG_MAX)
        assert await self.transport.replay(PLACE, letter) is Replayed.NO_ROOM
        assert [each.letter for each in await self.transport.dead_letters(PLACE, limit=10)] == [letter]

    async def check_a_dead_letter_told_twice_is_one(self) -> None:
        """As when the answer to the first call was lost."""
        epoch = (await self.exchange()).epoch
        await self.append(b"x")
        (event,) = (await self.exchange(epoch=epoch)).events
        for _ in range(2):
            await self.exchange(epoch=epoch, dead=[Dead(event.rank, event.entry, "once", 5)])
        assert len(await self.transport.dead_letters(PLACE, limit=10)) == 1

    async def check_any_bytes_arrive_as_they_were(self) -> None:
        """Also NUL and what is no UTF-8; and reasons of any text."""
        epoch = (await self.exchange()).epoch
        body = bytes(range(256))
        await self.append(body)
        (event,) = (await self.exchange(epoch=epoch)).events
        assert event.body == body
        await self.exchange(epoch=epoch, dead=[Dead(event.rank, event.entry, 'é "\\ \n', 1)])
        assert (await self.transport.dead_letters(PLACE, limit=1))[0].reason == 'é "\\ \n'

    async def check_all_that_listen_hear_what_is_sent(self) -> None:
        """The sender too; and that something was appended."""
        heard: list[list[object]] = [[], []]
        others = [self.transport, self.servers.transport()]
        for each, notes in zip(others, heard, strict=True):
            await each.start(notes.append, notes.append)

        async def sent() -> bool:
            await self.transport.send(PLACE, b"live")
            return all(b"live" in notes for notes in heard)

        await self.until(sent)
        await self.exchange()
        await self.append(b"kept")

        async def hinted() -> bool:
            return all(PLACE in notes for notes in heard)

        await self.until(hinted)
        assert all(b"kept" not in notes for notes in heard)

    async def check_one_of_a_reader_claims_what_was_sent(self) -> None:
        """The first, once for each reader and event."""
        other = self.servers.transport()
        assert [await each.claim("reader", "e1") for each in (self.transport, other)] == [True, False]
        assert await other.claim("another", "e1")
        assert await other.claim("reader", "e2")

    async def check_closing_twice_is_harmless(self) -> None:
        """Also before anything began."""
        other = self.servers.transport()
        await other.close()
        await other.close()

    async def given_up(self, *, idle: float = 60.0) -> str:
        """A dead letter of the reader, by name."""
        epoch = (await self.exchange(idle=idle)).epoch
        await self.append(b"given up")
        (event,) = (await self.exchange(epoch=epoch, idle=idle)).events
        dead = Dead(event.rank, event.entry, "because", 5)
        await self.exchange(epoch=epoch, dead=[dead], idle=idle)
        await self.transport.sweep(PLACE)
        (letter,) = await self.transport.dead_letters(PLACE, limit=10)
        return letter.letter

    async def append(self, *events: bytes, rank: int = 2) -> Sequence[bool]:
        """Append events of a priority."""
        return list(await self.transport.append(PLACE, [Append(rank, body) for body in events]))

    async def exchange(
        self,
        *,
        reader: str = "reader",
        owner: str = "owner",
        epoch: int = 0,
        room: Sequence[int] = (20,) * RANKS,
        settled: Sequence[Handed] = (),
        lease: float = 30.0,
        idle: float = 60.0,
        **more: Any,
    ) -> Exchanged:
        """One call."""
        told = Exchange(
            reader=reader,
            owner=owner,
            epoch=epoch,
            wanted=True,
            renewed=False,
            room=room,
            settled=[[event.entry for event in settled if event.rank == rank] for rank in range(RANKS)],
            dead=[],
            lease_seconds=lease,
            idle_seconds=idle,
        )
        return await self.transport.exchange(PLACE, msgspec.structs.replace(told, **more))

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Ask until it is so."""
        async with asyncio.timeout(self.deadline_seconds):
            while not await condition():  # noqa: ASYNC110 - there is no event: it is elsewhere
                await asyncio.sleep(0.01)


def bodies(answer: Exchanged) -> list[bytes]:
    """What was handed out, in its order."""
    return [event.body for event in answer.events]
