"""Links to a node that says what a real one does not: out of order, in pieces, too much, nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fix_races import until
from holdfast.testing import ManualClock
from holdfast.tiers import l2_link, l2_links
from holdfast.tiers.l2_link import Link
from holdfast.tiers.l2_links import Answers, Links
from holdfast.tiers.l2_topology import Node

DIGEST = "d" * 40
PATIENT = 60.0
Says = Callable[[list[bytes]], bytes | None]
"""What the node says to a request; None: nothing."""


class Peer:
    """A node, and links to it.

    Attributes:
        says: what it says to each request.
        asked: what it was asked, without greetings.
        accepted: how often it was connected to.
        refuses: whether it closes connections at once.
    """

    def __init__(self, says: Says) -> None:
        self.says = says
        self.asked: list[list[bytes]] = []
        self.accepted = 0
        self.refuses = False
        self.clock = ManualClock()
        self.links = Links(self._dial, monotonic=self.clock.monotonic)
        self.node = Node("n:1", ((0, 16383),))
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def _dial(self, name: str) -> Link:
        assert name == self.node.name
        _, link = await asyncio.get_running_loop().create_connection(Link, "127.0.0.1", self.port)
        return link

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.accepted += 1
        self.writers.add(writer)
        try:
            while not self.refuses:
                words = [await _word(reader) for _ in range(int((await reader.readuntil(b"\r\n"))[1:]))]
                self.asked.append(words)
                if (reply := self.says(words)) is not None:
                    cut = len(reply) // 2
                    writer.write(reply[:cut])
                    await writer.drain()
                    writer.write(reply[cut:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.writers.discard(writer)

    async def ask(self, *words: bytes, seconds: float = PATIENT) -> Answers:
        """Run a script on the node."""
        return await self.links.run(DIGEST, {self.node: [b"key", *words]}, seconds)

    def lends_its_link(self, other: Peer, node: Node) -> None:
        """To another's links, under a name that they do not know yet."""
        other.links._open[node.name] = self.links._open[self.node.name]

    async def opened(self) -> None:
        """Until a link leads there."""

        async def leads() -> bool:
            if (link := self.links._open.get(self.node.name)) is not None and link.takes:
                return True
            self.clock.advance(l2_links.REOPEN_SECONDS)
            await self.ask()
            return False

        await until(leads)
        self.asked.clear()


async def _word(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil(b"\r\n"))[1:])
    return (await reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def peer(says: Says) -> AsyncIterator[Peer]:
    """A node with a link to it."""
    at = Peer(says)
    server = await asyncio.start_server(at.serve, "127.0.0.1", 0)
    at.port = server.sockets[0].getsockname()[1]
    at.links.serve({at.node.name})
    try:
        await at.opened()
        yield at
    finally:
        await at.links.close()
        server.close()
        await server.wait_closed()
        await until(_true(lambda: not at.writers))


def echo(words: list[bytes]) -> bytes:
    """The last word."""
    return b"$%d\r\n%b\r\n" % (len(words[-1]), words[-1])


async def test_replies_are_those_of_their_requests() -> None:
    """Many at once, each asked before the reply to the one before has come."""
    async with peer(echo) as at:
        words = [b"%d" % number for number in range(200)]
        answers = await asyncio.gather(*(at.ask(word) for word in words))
        assert [each.replies[at.node] for each in answers] == words
        assert at.asked[7] == [b"EVALSHA", DIGEST.encode(), b"1", b"key", b"7"]
        assert at.accepted == 1


async def test_who_is_cancelled_leaves_the_others_their_replies() -> None:
    """The reply that nobody waits for comes first, and is nobody's."""
    async with peer(lambda _: None) as at:
        first = asyncio.ensure_future(at.ask(b"first"))
        await until(_true(lambda: len(at.asked) == 1))
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(at.ask(b"second"))
        await until(_true(lambda: len(at.asked) == 2))
        (writer,) = at.writers
        writer.write(b"$5\r\nfirst\r\n$6\r\nsecond\r\n")
        assert (await second).replies == {at.node: b"second"}


async def test_an_error_is_no_answer_and_the_link_goes_on() -> None:
    """The client asks anew."""
    async with peer(lambda words: b"-NOSCRIPT none\r\n" if words[-1] == b"new" else echo(words)) as at:
        assert await at.ask(b"new") == Answers({})
        assert (await at.ask(b"fine")).replies == {at.node: b"fine"}
        assert at.accepted == 1


@pytest.mark.parametrize("said", ["MOVED 1 x:1", "READONLY no", "CLUSTERDOWN no", "NOAUTH no", "NOPERM no"])
async def test_a_node_that_is_not_what_it_was_loses_its_link(said: str) -> None:
    """And the map of nodes is in doubt; for what else is asked, the client is not asked in vain first."""
    async with peer(lambda _: f"-{said}\r\n".encode()) as at:
        assert await at.ask(b"x") == Answers({}, doubtful=True)
        await until(_true(lambda: not at.writers))
        assert await at.ask(b"x") == Answers({})
        assert len(at.asked) == 1


async def test_a_silent_node_costs_the_others_nothing() -> None:
    """Their replies are answers, though time was over."""
    async with peer(lambda _: None) as silent, peer(echo) as well:
        node = Node("n:2", ((0, 16383),))
        well.lends_its_link(silent, node)
        calls = {silent.node: [b"key", b"x"], node: [b"key", b"y"]}
        assert await silent.links.run(DIGEST, calls, 0.01) == Answers({node: b"y"}, expired=True)


@pytest.mark.parametrize("said", [b"what?\r\n", b":1\r\n:2\r\n", b"*1\r\n" * 2000])
async def test_what_is_no_reply_ends_the_link(said: bytes) -> None:
    """Nor is a reply that nobody waits for, after which no reply could be trusted to be that of its request."""
    async with peer(lambda _: said) as at:
        link = at.links._open[at.node.name]
        await at.ask(b"x")
        await asyncio.wait([link.lost])
        assert isinstance(link.lost.result(), Exception)
        at.says = echo
        await at.opened()
        assert (await at.ask(b"well")).replies == {at.node: b"well"}


async def test_a_reply_that_does_not_end_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are counted while it comes."""
    monkeypatch.setattr(l2_link, "REPLY_BYTES_MAX", 1000)
    async with peer(lambda _: b"$100000\r\n" + b"x" * 2000) as at:
        link = at.links._open[at.node.name]
        assert await at.ask(b"x") == Answers({})
        await asyncio.wait([link.lost])
        assert "1000 bytes" in str(link.lost.result())


async def test_replies_of_any_number_are_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is one reply's."""
    monkeypatch.setattr(l2_link, "REPLY_BYTES_MAX", 1000)
    async with peer(echo) as at:
        answers = await asyncio.gather(*(at.ask(b"x" * 500) for _ in range(20)))
        assert all(each.replies for each in answers)


async def test_a_silent_node_costs_its_link() -> None:
    """Who waited is told so in time; for a second there is no link, then a new one."""
    async with peer(lambda _: None) as at:
        assert await at.ask(b"x", seconds=0.01) == Answers({}, expired=True)
        at.says = echo
        for _ in range(3):
            assert await at.ask(b"x") == Answers({})
        await until(_true(lambda: not at.writers))
        assert at.accepted == 1
        await at.opened()
        assert (await at.ask(b"x")).replies == {at.node: b"x"}
        assert at.accepted == 2


async def test_a_lost_link_is_told_at_once() -> None:
    """Nobody waits for its time."""
    async with peer(lambda _: None) as at:
        asking = [asyncio.ensure_future(at.ask(b"x")) for _ in range(3)]
        await until(_true(lambda: len(at.asked) == 3))
        at.refuses = True
        for writer in list(at.writers):
            writer.transport.abort()
        assert await asyncio.gather(*asking) == [Answers({})] * 3


async def test_a_node_that_reads_nothing_is_asked_no_more() -> None:
    """What it has not taken yet stays bounded."""
    async with peer(echo) as at:
        link = at.links._open[at.node.name]
        link.pause_writing()
        assert await at.ask(b"x") == Answers({})
        assert at.asked == []
        link.resume_writing()
        assert (await at.ask(b"x")).replies == {at.node: b"x"}


async def test_a_link_whose_callers_were_all_cancelled_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round of theirs expires any more, so that it would be silent for ever."""
    monkeypatch.setattr(l2_link, "WAITING_MAX", 2)
    async with peer(lambda _: None) as at:
        asking = [asyncio.ensure_future(at.ask(b"x")) for _ in range(2)]
        await until(_true(lambda: len(at.asked) == 2))
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
        assert await at.ask(b"one more") == Answers({})
        at.says = echo
        await at.opened()
        assert (await at.ask(b"x")).replies == {at.node: b"x"}


async def test_a_node_that_closes_its_link_is_told_of() -> None:
    """In good order too."""
    async with peer(echo) as at:
        link = at.links._open[at.node.name]
        for writer in at.writers:
            writer.close()
        await asyncio.wait([link.lost])
        assert "the node closed it" in str(link.lost.result())


async def test_only_nodes_that_are_served_have_links() -> None:
    """Those that L2 has no more lose theirs."""
    async with peer(echo) as at:
        at.links.serve({"other:1"})
        await until(_true(lambda: not at.writers))
        for _ in range(3):
            at.clock.advance(10.0)
            assert await at.ask(b"x") == Answers({})
        assert (at.links._open, at.links._opening, at.accepted) == ({}, {}, 1)


async def test_nothing_is_left_of_closed_links() -> None:
    """Whether they are open or about to be, and twice."""
    async with peer(echo) as at:
        waiting = asyncio.ensure_future(at.ask(b"x"))
        await asyncio.sleep(0)
        await at.links.close()
        assert (at.links._open, (await waiting).expired) == ({}, False)
        await at.links.close()
        assert await at.ask(b"x") == Answers({})
        assert at.links._opening == {}


async def test_closing_may_be_cancelled() -> None:
    """And called again: it ends what is left."""
    async with peer(echo) as at:
        link = at.links._open[at.node.name]
        closing = asyncio.ensure_future(at.links.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await at.links.close()
        assert (link.lost.result(), at.links._open) == (None, {})


async def test_a_link_that_is_being_opened_ends_with_the_others() -> None:
    """However long it takes."""
    dialled = asyncio.Event()

    async def forever(_: str) -> Link:
        dialled.set()
        await asyncio.Event().wait()
        raise AssertionError

    node = Node("n:1", ((0, 16383),))
    links = Links(forever, monotonic=ManualClock().monotonic)
    links.serve({node.name})
    assert await links.run(DIGEST, {node: [b"key"]}, PATIENT) == Answers({})
    await dialled.wait()
    await links.close()
    assert links._opening == {}


@pytest.mark.parametrize("fault", [OSError("away"), TimeoutError(), ValueError("WRONGPASS")])
async def test_a_link_that_cannot_be_opened_is_told_once(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """And tried again after one second, two, four. The map of nodes is in doubt meanwhile."""
    tries = 0

    async def refused(_: str) -> Link:
        nonlocal tries
        tries += 1
        raise fault

    clock, node = ManualClock(), Node("n:1", ((0, 16383),))
    links = Links(refused, monotonic=clock.monotonic)
    links.serve({node.name})
    tried_at = []
    with caplog.at_level("INFO", logger="holdfast"):
        for number in range(80):
            before = tries
            assert await links.run(DIGEST, {node: [b"key"]}, PATIENT) == Answers({}, doubtful=number > 0)
            await until(_true(lambda: not links._opening))
            if tries > before:
                tried_at.append(number / 2)
            clock.advance(0.5)
    assert tried_at == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0]
    assert caplog.text.count("no link") == 1
    await links.close()


def _true(is_so: Callable[[], Any]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return bool(is_so())

    return asked
