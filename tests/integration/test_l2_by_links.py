"""Links to real servers: what goes by them, and what is asked of the client instead."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trustme
import uvloop

from fix_cluster import HALF, Cluster, free_port
from fix_l2 import RedisHarness, RedisL2, by_links, connection_to, started
from fix_races import until
from fix_single import Single
from holdfast.protocols import Failed
from holdfast.testing import ManualClock
from holdfast.testing.conformance.l2_harness import KEY, L2Suite, row
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import RedisConnector
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_watermarks import watermark_key


def no_client(connection: RedisConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the client may not be asked."""

    async def refuse(arguments: list[str | bytes]) -> Any:
        raise AssertionError(arguments)

    monkeypatch.setattr(connection, "command", refuse)


async def held_by_links(harness: RedisHarness) -> tuple[L2Suite, RedisL2]:
    """An L2 that holds version 5 of the suites' key, with links to all of its nodes."""
    suite, l2 = await started(harness)
    await suite.fill(l2, row(5))
    await by_links(harness.connection)
    return suite, l2


async def test_all_goes_by_links(l2_harness: RedisHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads, fills, fences: once nodes know the scripts, the client has nothing to do."""
    suite, l2 = await held_by_links(l2_harness)
    no_client(l2_harness.connection, monkeypatch)
    assert await suite.version(l2) == 5
    await suite.fence(l2, {KEY: 6})
    assert await suite.version(l2) == 0
    assert await suite.fill(l2, row(6)) == 1
    assert await suite.version(l2) == 6


async def test_a_user_with_a_password_has_links(single: Single, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its permissions are those of the client."""
    connection = connection_to(*single.urls)
    suite, l2 = await held_by_links(RedisHarness(connection, b"vrooli:"))
    no_client(connection, monkeypatch)
    assert await suite.version(l2) == 5
    await connection.close()


async def test_a_refused_password_is_told_without_it(single: Single) -> None:
    """The link is not opened."""
    connector = _connector(f"redis://app:n0t-it@127.0.0.1:{single.port}")
    with pytest.raises(ValueError, match="WRONGPASS") as refused:
        await connector.dial(f"127.0.0.1:{single.port}")
    assert "n0t-it" not in repr(refused.value)


@pytest.fixture
def replica(single: Single, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    """A server that says it is the other one's replica."""
    options = ("--replicaof", "127.0.0.1", str(single.port))
    server = Single(tmp_path_factory.mktemp("replica"), free_port(), options)
    server.start()
    yield server
    server.kill()


async def test_two_servers_that_are_no_cluster_have_no_links(single: Single, replica: Single) -> None:
    """Which of them takes writes only the client knows."""
    connection = connection_to(*replica.urls, *single.urls)
    suite, l2 = await started(RedisHarness(connection, b"vrooli:"))
    assert await suite.fill(l2, row(5)) == 1
    assert (connection._links._open, connection._links._opening) == ({}, {})
    await connection.close()


async def test_a_lost_link_costs_no_read(single: Single) -> None:
    """The client answers until there is a new one."""
    clock = ManualClock()
    connection = connection_to(*single.urls, clock=clock)
    suite, l2 = await held_by_links(RedisHarness(connection, b"vrooli:"))
    for _ in range(3):
        (link,) = connection._links._open.values()
        assert link._transport is not None
        link._transport.abort()
        assert [await suite.version(l2) for _ in range(5)] == [5] * 5
        clock.advance(2.0)
        await by_links(connection)
    assert connection.opened == 0
    await connection.close()


async def test_a_slot_that_has_moved_has_the_map_read_anew(cluster: Cluster) -> None:
    """A link's MOVED is nobody's answer: the client finds whoever serves the slot now, and links follow."""
    clock = ManualClock()
    connection = connection_to(*cluster.urls, clock=clock)
    suite, l2 = await held_by_links(RedisHarness(connection, b"two:"))
    before = await connection.topology()
    calls = {node: [watermark_key(b"two:", node.slots[0][0]), b"0"] for node in before.nodes}
    cluster.move(HALF, 1, 0)  # where the second node's watermark is
    clock.advance(2.0)

    async def read_anew() -> bool:
        assert all(type(answer) is list for answer in (await connection.run(Script("read"), calls)).values())
        return await connection.topology() is not before

    await until(read_anew)
    assert [node.slots[0][0] for node in (await connection.topology()).nodes] == [0, HALF + 1]
    clock.advance(2.0)
    await by_links(connection)
    answer = await suite.read(l2)
    assert isinstance(answer, Failed) or suite.miss_in(answer).generation == -1
    await connection.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_a_process_that_stood_still_has_its_replies(
    new_loop: Callable[[], asyncio.AbstractEventLoop], single: Single
) -> None:
    """They came in time: neither is the link given up nor is the node thought to be slow."""

    async def stand_still() -> None:
        connection = connection_to(*single.urls)
        (node,) = (await connection.topology()).nodes
        await by_links(connection)
        (link,) = connection._links._open.values()
        reading = asyncio.ensure_future(
            connection._links.run(Script("read").digest, {node: [watermark_key(b"vrooli:", 0), b"0"]}, 0.05)
        )
        assert link.takes
        while not link._waiting:  # noqa: ASYNC110 - until it is sent; no one tells
            await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - this is what is tested
        answers = await reading
        assert (len(answers.replies), answers.expired, link.is_open) == (1, False, True)
        await connection.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(stand_still())

    await asyncio.to_thread(run)


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A port at which a test serves; nothing of it is left at the end."""
    under_way: set[asyncio.StreamWriter] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.add(writer)
        try:
            with suppress(OSError):
                await serve(reader, writer)
        finally:
            writer.close()
            under_way.discard(writer)

    async def all_ended() -> bool:
        return not under_way

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await until(all_ended)


@asynccontextmanager
async def tls_before(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """A port that speaks TLS, in front of a server that does not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    async with listening(join, context) as before:
        yield before


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


async def test_links_speak_tls(single: Single, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the certificates to trust that the client has."""
    authority = trustme.CA()
    async with tls_before(single.port, authority) as port:
        url = single.urls[0].replace("redis://", "rediss://").replace(str(single.port), str(port))
        connector = RedisConnector(
            [url],
            request_timeout_seconds=5.0,
            connect_timeout_seconds=5.0,
            ca_pem=authority.cert_pem.bytes(),
        )
        connection = RedisConnection(connector, monotonic=asyncio.get_running_loop().time)
        suite, l2 = await held_by_links(RedisHarness(connection, b"vrooli:"))
        no_client(connection, monkeypatch)
        assert await suite.version(l2) == 5
        await connection.close()


async def test_who_is_not_trusted_gets_no_link(single: Single) -> None:
    """Nor a password."""
    async with tls_before(single.port, trustme.CA()) as port:
        connector = _connector(f"rediss://app:p@127.0.0.1:{port}")
        with pytest.raises(ssl.SSLCertVerificationError):
            await connector.dial(f"127.0.0.1:{port}")


@pytest.mark.parametrize("name", [":7000", "?:7000", "127.0.0.1:x"])
async def test_a_node_without_an_address_has_no_link(name: str) -> None:
    """As a node says of itself that does not know its own."""
    with pytest.raises((OSError, ValueError)):
        await _connector("redis://127.0.0.1:1").dial(name)


async def test_a_node_that_says_nothing_has_no_link() -> None:
    """Within the time of a connection."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with listening(silent) as port:
        with pytest.raises(TimeoutError):
            await _connector(f"redis://127.0.0.1:{port}", connect_timeout=0.05).dial(f"127.0.0.1:{port}")


def _connector(url: str, *, connect_timeout: float = 5.0) -> RedisConnector:
    return RedisConnector([url], request_timeout_seconds=5.0, connect_timeout_seconds=connect_timeout)
