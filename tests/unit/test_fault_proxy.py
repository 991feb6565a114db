"""Each fault of the proxy does to real sockets what it says, and ends."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fix_proxy import OPPOSITE, Net, listening, until
from holdfast.testing import fault_proxy as module
from holdfast.testing.fault_pipe import CHUNK_BYTES, WAITING_BYTES_MAX, Traffic
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.faults import Way

pytestmark = pytest.mark.timeout(60)  # the deadline of every wait for bytes

CLOCK_SECONDS = 0.002  # what a loop's clock may be coarse by
both_ways = pytest.mark.parametrize("way", list(OPPOSITE))


@pytest.fixture
async def net(fault_proxy: StartProxy) -> AsyncIterator[Net]:
    """A server behind a proxy."""
    made = Net()
    async with listening(made) as port:
        made.proxy = await fault_proxy("127.0.0.1", port)
        yield made


async def settled(net: Net) -> None:
    """Let all that can pass through the proxy pass: another connection, on which no fault is, does a round trip."""
    probe = await net.line()
    assert await probe.carries("to_server")
    assert await probe.carries("to_client")


async def test_without_faults_it_is_a_wire(net: Net) -> None:
    """Bytes arrive as sent, both ways, and are counted as well as the connections."""
    first, second = await net.line(), await net.line()
    large = random.Random(1).randbytes(300_000)
    assert await first.carries("to_server", large)
    assert await second.carries("to_client", b"answer")
    proxy = net.proxy
    assert (proxy.connections, proxy.refused) == (2, 0)
    assert proxy.to_server == Traffic(300_000, 300_000, 0)
    assert proxy.to_client == Traffic(6, 6, 0)


@both_ways
async def test_hold_stops_bytes_until_its_end(net: Net, way: Way) -> None:
    """During a hold nothing arrives and the sockets stay open; its end delivers everything in order."""
    line = await net.line()
    arriving = line.expect(way, 6)
    with net.proxy.hold(way, where=lambda connection: connection.number == 1):
        await net.send(line, way, b"abc")
        await net.send(line, way, b"def")
        await settled(net)
        assert not arriving.done()
        assert net.traffic(way).delivered == len(b"probe")
        assert await line.carries(OPPOSITE[way])
    assert await arriving == b"abcdef"


@both_ways
async def test_one_way_lets_one_direction_pass(net: Net, way: Way) -> None:
    """Only the named direction delivers, until the fault ends."""
    line = await net.line()
    arriving = line.expect(OPPOSITE[way], 3)
    fault = net.proxy.one_way(way, where=lambda connection: connection.number == 1)
    await net.send(line, OPPOSITE[way], b"abc")
    assert await line.carries(way)
    await settled(net)
    assert not arriving.done()
    fault.end()
    assert await arriving == b"abc"


async def test_hold_is_bounded_by_back_pressure(net: Net) -> None:
    """A sender that goes on during a hold is stopped, not buffered without limit; afterwards all of it arrives."""
    line = await net.line()
    content = random.Random(2).randbytes(32 << 20)  # more than the kernel's buffers take
    hold = net.proxy.hold(where=lambda connection: connection.number == 1)
    line.sender("to_server").write(content)
    sending = asyncio.ensure_future(line.sender("to_server").drain())
    await until(lambda: net.proxy.to_server.received >= WAITING_BYTES_MAX)
    before = net.proxy.to_server.received
    await settled(net)
    assert net.proxy.to_server.received - len(b"probe") <= before < WAITING_BYTES_MAX + CHUNK_BYTES
    assert not sending.done()
    hold.end()
    assert await line.receiver("to_server").readexactly(len(content)) == content


@both_ways
async def test_hold_keeps_a_close_and_a_reset_back(net: Net, way: Way) -> None:
    """That one end has closed or reset is not seen at the other during a hold, and is afterwards."""
    closing, resetting = await net.line(), await net.line()
    seen = [asyncio.ensure_future(line.receiver(way).read()) for line in (closing, resetting)]
    hold = net.proxy.hold(where=lambda connection: connection.number <= 2)
    await net.send(closing, way, b"last words")
    closing.sender(way).close()
    module._reset(resetting.sender(way))
    await settled(net)
    assert not any(task.done() for task in seen)
    hold.end()
    assert await seen[0] == b"last words"
    with pytest.raises(ConnectionResetError):
        await seen[1]


@both_ways
async def test_drop_loses_bytes_for_good(net: Net, way: Way) -> None:
    """What is sent during a drop never arrives and is counted; what is sent after it does."""
    line = await net.line()
    with net.proxy.drop(way):
        await net.send(line, way, b"lost")
        await until(lambda: net.traffic(way).dropped == 4)
        assert await line.carries(OPPOSITE[way])
    assert await line.carries(way, b"kept")
    assert net.traffic(way) == Traffic(received=8, delivered=4, dropped=4)


@both_ways
async def test_delay_takes_its_time_in_one_direction(net: Net, way: Way) -> None:
    """A chunk arrives no sooner than the delay after it was sent; delays add up, and the other direction has none."""
    line, loop = await net.line(), asyncio.get_running_loop()
    with net.proxy.delay(3600, direction=way):
        assert await line.carries(OPPOSITE[way])
    with net.proxy.delay(0.05, direction=way), net.proxy.delay(0.02):
        begin = loop.time()
        assert await line.carries(way)
        assert loop.time() - begin >= 0.07 - CLOCK_SECONDS


class Falling(random.Random):
    """Draws 1.0, then less and less."""

    def __init__(self) -> None:
        super().__init__(0)
        self.drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return 1.0 / self.drawn


async def test_jitter_is_drawn_from_the_given_source_and_keeps_the_order(fault_proxy: StartProxy) -> None:
    """The first chunk is drawn the longest delay, and still none overtakes it."""
    net, source, loop = Net(), Falling(), asyncio.get_running_loop()
    async with listening(net) as port:
        net.proxy = await fault_proxy("127.0.0.1", port, random_=source)
        line = await net.line()
        net.proxy.delay(0.0, jitter_seconds=0.1, direction="to_server")
        begin = loop.time()
        for letter in b"abcdef":
            await net.send(line, "to_server", bytes([letter]))
        assert await line.receiver("to_server").readexactly(6) == b"abcdef"
        assert loop.time() - begin >= 0.1 - CLOCK_SECONDS
        assert source.drawn == 6


async def test_delay_is_latency_and_not_a_narrow_pipe(net: Net) -> None:
    """Chunks sent one by one travel at the same time: ten of them do not take ten delays."""
    line, loop = await net.line(), asyncio.get_running_loop()
    net.proxy.delay(0.3)
    begin = loop.time()
    for _ in range(10):
        await net.send(line, "to_server", b"x")
    await line.receiver("to_server").readexactly(10)
    assert 0.3 - CLOCK_SECONDS <= loop.time() - begin < 3.0


async def test_heal_ends_all_faults_at_once(net: Net) -> None:
    """What is delayed for an hour and held arrives as soon as everything is healed, and connections are accepted."""
    line = await net.line()
    net.proxy.delay(3600)
    net.proxy.hold("to_server")
    net.proxy.refuse()
    arriving = line.expect("to_server", 3)
    await net.send(line, "to_server", b"abc")
    net.proxy.heal()
    assert await arriving == b"abc"
    await settled(net)


async def test_reset_breaks_the_connections_it_is_meant_for(net: Net) -> None:
    """Both ends of a connection get a reset, not an end, and others go on."""
    broken, whole = await net.line(), await net.line()
    net.proxy.reset(where=lambda connection: connection.number == 1)
    for reader in (broken.client[0], broken.server[0]):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert await whole.carries("to_server")
    assert await whole.carries("to_client")


@both_ways
async def test_a_hold_that_ends_right_behind_a_reset_delivers_nothing(net: Net, way: Way) -> None:
    """What was held when the connection was reset is lost, whatever comes first in the event loop."""
    line = await net.line()
    with net.proxy.hold(way):
        await net.send(line, way, b"abc")
        net.proxy.reset()
    with pytest.raises(ConnectionResetError):
        await line.receiver(way).readexactly(1)
    assert net.traffic(way).delivered == 0


async def test_refuse_turns_new_connections_away(net: Net) -> None:
    """A new connection is reset before the server sees it, those there are go on, and afterwards new ones pass."""
    line = await net.line()
    with net.proxy.refuse():
        reader, _ = await net.dial()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert await line.carries("to_server")
    assert net.accepted.empty()
    assert (net.proxy.connections, net.proxy.refused) == (1, 1)
    await settled(net)


@both_ways
@pytest.mark.parametrize("after_bytes", [0, 7, 100_000])
async def test_cut_delivers_so_many_bytes_and_ends(net: Net, way: Way, after_bytes: int) -> None:
    """Of what is sent from now on exactly the first n bytes arrive, then the connection is over for both ends."""
    line = await net.line()
    assert await line.carries(way, b"before")
    net.proxy.cut(after_bytes, way)
    assert await line.carries(OPPOSITE[way])
    content = random.Random(3).randbytes(150_000)
    line.sender(way).write(content)
    assert await line.receiver(way).read() == content[:after_bytes]
    with pytest.raises(ConnectionResetError):
        await line.receiver(OPPOSITE[way]).read()


async def test_cut_does_not_wait_for_another_byte(net: Net) -> None:
    """The last byte allowed is delivered and ends the connection, though nothing follows it."""
    line = await net.line()
    net.proxy.cut(3)
    line.sender("to_server").write(b"abc")
    assert await line.receiver("to_server").read() == b"abc"


@both_ways
async def test_half_close_is_passed_on(net: Net, way: Way) -> None:
    """An end that has said its last still gets the answer."""
    line = await net.line()
    line.sender(way).write(b"question")
    line.sender(way).write_eof()
    assert await line.receiver(way).read() == b"question"
    assert await line.carries(OPPOSITE[way], b"answer")
    line.sender(OPPOSITE[way]).write_eof()
    assert await line.receiver(OPPOSITE[way]).read() == b""


async def test_where_sees_what_the_client_sent_first(net: Net) -> None:
    """A fault can be meant for the connections whose first bytes say who they are."""
    feed, other = await net.line(), await net.line()
    net.proxy.hold(where=lambda connection: b"feed" in connection.first_bytes)
    await net.send(feed, "to_server", b"I am the fe")
    assert await feed.receiver("to_server").readexactly(11) == b"I am the fe"
    arriving = feed.expect("to_client", 3)
    await net.send(feed, "to_server", b"ed")
    await net.send(feed, "to_client", b"abc")
    assert await other.carries("to_server", b"I am not")
    assert await other.carries("to_client")
    assert not arriving.done()
    net.proxy.heal()
    assert await arriving == b"abc"


async def test_server_behind_a_unix_socket(fault_proxy: StartProxy, tmp_path: Path) -> None:
    """The upstream can be a socket's path; clients come by TCP all the same."""
    net = Net()
    listener = await asyncio.start_unix_server(net.accept, tmp_path / "s")
    net.proxy = await fault_proxy(tmp_path / "s")
    line = await net.line()
    assert await line.carries("to_server")
    net.proxy.reset()
    assert await line.receiver("to_server").read() == b""
    listener.close()
    net.close()
    await listener.wait_closed()


async def test_server_that_is_not_there(fault_proxy: StartProxy, tmp_path: Path) -> None:
    """A client of a server that cannot be reached is reset, and counted."""
    proxy = await fault_proxy(tmp_path / "nothing")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (proxy.connections, proxy.refused) == (0, 1)


async def test_close_leaves_nothing_behind(net: Net) -> None:
    """Closed twice in the middle of faults, the proxy has reset its connections, and no task or port of it is left."""
    tasks = asyncio.all_tasks()
    proxy = FaultProxy("127.0.0.1", net.port)
    assert asyncio.all_tasks() == tasks
    with pytest.raises(RuntimeError, match="no port: it is not started"):
        _ = proxy.port
    async with proxy:
        with pytest.raises(RuntimeError, match="listens already"):
            await proxy.start()
        port = proxy.port
        readers = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            net.streams.append((reader, writer))
            readers.append(reader)
            await net.accepted.get()
            writer.write(b"x" * 100_000)
        proxy.hold()
        proxy.delay(3600)
        await proxy.close()
        assert asyncio.all_tasks() == tasks
    for reader in readers:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


async def test_too_many_connections_are_turned_away(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit a connection is reset like a refused one."""
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 1)
    line = await net.line()
    reader, _ = await net.dial()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert net.proxy.refused == 1
    assert await line.carries("to_server")


async def test_where_that_raises_is_told_at_the_close(net: Net) -> None:
    """A `where` that fails resets its connection, and its error comes out of `close`, not out of a log."""
    line = await net.line()
    net.proxy.hold(where=lambda connection: bool(1 / (connection.number - 1)))
    line.sender("to_server").write(b"x")
    with pytest.raises(ConnectionResetError):
        await line.receiver("to_client").read()
    with pytest.raises(ExceptionGroup) as told:
        await net.proxy.close()
    assert told.value.subgroup(ZeroDivisionError) is not None


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        (lambda proxy: proxy.hold("up"), "hold: direction is to_server, to_client or both, not 'up'"),
        (lambda proxy: proxy.one_way("both"), "one_way: direction is to_server or to_client, not 'both'"),
        (lambda proxy: proxy.delay(-1), "delay: seconds is 0 or more, not -1"),
        (lambda proxy: proxy.delay(0, jitter_seconds=float("nan")), "delay: jitter_seconds is 0 or more, not nan"),
        (lambda proxy: proxy.cut(-1), "cut: after_bytes is 0 or more, not -1"),
    ],
)
def test_wrong_arguments_are_named(switch: Callable[[FaultProxy], object], words: str) -> None:
    """A direction or number that cannot be is refused with its name, and no fault is on."""
    proxy = FaultProxy("127.0.0.1", 1)
    with pytest.raises(ValueError, match=words):
        switch(proxy)
    assert proxy._board.on == []
