"""Connecting to an L2 that says nothing, and to one that comes late."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from glide import RequestError
from glide import TimeoutError as GlideTimeoutError

from fix_l2 import RedisHarness, connection_to
from fix_single import Single
from holdfast.errors import TierUnavailable
from holdfast.protocols import Failed
from holdfast.protocols.guards import TierState
from holdfast.testing import ManualClock
from holdfast.testing.conformance.l2_harness import KEY, VIEW
from holdfast.tiers.l2_guard import RedisGuard


async def test_an_l2_that_says_nothing_holds_no_reader_up() -> None:
    """It accepts connections and never answers: readers wait for a request's time once, then not at all."""
    accepted = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = connection_to(f"redis://127.0.0.1:{port}", request_timeout=0.2, connect_timeout=30.0)
    guard = RedisGuard(connection)
    assert guard.health().state is TierState.THERE  # nobody has asked it
    loop, l2 = asyncio.get_running_loop(), RedisHarness(connection, b"vrooli:").open()
    ticks: list[float] = []
    ticking = asyncio.ensure_future(_tick(ticks))
    began = loop.time()
    answers = await asyncio.gather(*(l2.cache.read([KEY], VIEW) for _ in range(20)))
    waited = loop.time() - began
    again = await l2.cache.read([KEY], VIEW)
    ticking.cancel()
    for answer in [*(each[KEY] for each in answers), again[KEY]]:
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, TierUnavailable)
    assert 0.15 < waited < 5.0
    health = guard.health()
    assert (guard.answers, health.state) == (False, TierState.AWAY)
    assert "no answer yet" in str(health.fault)
    assert loop.time() - began - waited < 0.15, "the second look waited too"
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 2.0, "the loop stood still"
    assert accepted == 1
    with pytest.raises(TierUnavailable):
        await l2.sink.targets()
    await connection.close()
    assert connection._connecting is None
    with pytest.raises(TierUnavailable, match="closed"):
        await connection.topology()
    server.close()
    await server.wait_closed()


async def test_an_l2_that_comes_late_is_found(single: Single) -> None:
    """After a failed attempt readers fail at once for a second; then one connects."""
    clock = ManualClock()
    single.kill()
    connection = connection_to(*single.urls, clock=clock, request_timeout=0.5, connect_timeout=0.1)
    sink = RedisHarness(connection, b"vrooli:").open().sink

    async def refused(match: str) -> None:
        with pytest.raises(TierUnavailable, match=match):
            await sink.targets()
        if connection._connecting is not None:
            await asyncio.wait([connection._connecting])

    await refused("no answer yet|Error")
    single.start()
    await refused("still away")
    clock.advance(1.1)
    await refused("still away")  # but it connects meanwhile
    assert len(await sink.targets()) == 1
    await connection.close()


async def test_a_slot_that_moves_is_no_outage(single: Single) -> None:
    """Whatever a node was cut off for once: the map of nodes is read anew, and L2 is there meanwhile."""
    connection = connection_to(*single.urls)
    guard = RedisGuard(connection)
    node = (await connection.topology()).nodes[0]
    fault = GlideTimeoutError("long ago")
    assert connection._watch.failed(node, connection._awake.monotonic() - 60.0, fault)
    assert guard.health().state is TierState.AWAY
    error = connection._runner._unavailable(node, RequestError("MOVED 1 127.0.0.1:1"))
    assert isinstance(error.__cause__, RequestError)
    assert connection.map_is_stale
    assert (guard.answers, guard.health().state, guard.health().fault) == (True, TierState.THERE, None)
    await connection.close()


async def _tick(ticks: list[float]) -> None:
    while True:
        ticks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
