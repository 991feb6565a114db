"""The connection to L2: cluster or single node, and the map of which node serves what.

Connecting is lazy and repeated on demand, at most once a second, so that L2 may be away when a server starts
and come back later. It goes on in a task of its own, and nobody waits for it longer than for a request: an L2 that
accepts connections and says nothing holds no reader up. All errors of the client leave this module as
`TierUnavailable`, with the cause chained. A node that does not answer is cut off (`l2_watch`): calls that need it fail
at once, until probes have found it again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from glide import ClosingError, GlideClusterClient, GlideError, SlotIdRoute, SlotType

from holdfast.errors import TierUnavailable
from holdfast.recovery.breaker import Circuit
from holdfast.tiers.awake import AwakeClock
from holdfast.tiers.l2_connect import Client, RedisConnector
from holdfast.tiers.l2_links import Links
from holdfast.tiers.l2_scripts import Call, Script, ScriptRunner
from holdfast.tiers.l2_topology import Node, Topology
from holdfast.tiers.l2_watch import NodeWatch

logger = logging.getLogger("holdfast")
RECONNECT_SECONDS: Final = 1.0
MAP_AGE_MAX_SECONDS: Final = 1.0
"""How old a map of nodes may be that is in doubt."""


class RedisConnection:
    """A lazily connected client of L2.

    Args:
        connector: opens its client.
        monotonic: clock in seconds, for the pause between attempts to connect and the age of the map of nodes.
    """

    def __init__(self, connector: RedisConnector, *, monotonic: Callable[[], float]) -> None:
        self._connector = connector
        self._request_timeout_seconds = connector.request_timeout_seconds
        self._monotonic = monotonic
        self._client: Client | None = None
        self._topology: Topology | None = None
        self._read_at = -math.inf  # when the reading of the map began that was last done
        self._connecting: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._retry_at = -math.inf
        self._last_failure: Exception | None = None
        self._closed = False
        self._awake = AwakeClock(monotonic)
        self._watch = NodeWatch(
            self._sign_of_life,
            monotonic=self._awake.monotonic,
            request_timeout_seconds=connector.request_timeout_seconds,
        )
        self._guards = self._watch.guards
        self._links = Links(connector.dial, monotonic=monotonic)
        self._runner = ScriptRunner(self, self._links, self._watch, self._awake)

    async def topology(self, *, age_max_seconds: float = math.inf) -> Topology:
        """The map of nodes, connecting first if need be; read anew if it is older than that.

        Raises:
            TierUnavailable: that failed, or takes longer than a request may; it goes on meanwhile. After a failure the
                next attempts are not waited for at all.
        """
        if self._topology is not None and not self._is_older(age_max_seconds):
            return self._topology
        attempt = self._attempt()
        if self._last_failure is not None:
            raise self._away()
        await self._wait_for(attempt)
        if self._topology is None or self._read_at < self._began_at:
            raise TierUnavailable(f"L2 at {self._connector.addresses}: {self._fault()}") from self._last_failure
        return self._topology

    async def client(self) -> Client:
        """The client itself, for calls that are not one script on several nodes.

        Raises:
            TierUnavailable: it is not connected, as with `topology`.
        """
        await self.topology()
        if self._client is None:
            raise TierUnavailable("L2: the connection is closed")
        return self._client

    def give_up(self, client: Client) -> bool:
        """Connect anew with the next call; the caller closes the old client. False: that was done just now.

        A new client finds a failover at once; one that lost a node was seen to go on asking it for 20 seconds.
        """
        if self._client is not client or self._monotonic() < self._began_at + RECONNECT_SECONDS:
            return False
        self._client = self._topology = None
        return True

    def doubt_map(self) -> None:
        """An answer does not fit the map of nodes: read it anew in the background, unless that was done just now."""
        if self._topology is not None and self._may_attempt() and self._is_older(MAP_AGE_MAX_SECONDS):
            self._attempt()

    @property
    def map_is_stale(self) -> bool:
        """A node said that it no longer serves what was asked of it; the next `topology()` reads the map anew."""
        return self._client is not None and self._topology is None

    def forget_map(self) -> None:
        """A node said that it no longer serves what was asked of it: read the map anew with the next call."""
        self._topology = None

    async def run(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        """Run a script on several nodes at once; see `ScriptRunner.run`."""
        return await self._runner.run(script, calls)

    async def command(self, arguments: list[str | bytes]) -> Any:
        """Send a command to whoever serves its key.

        Raises:
            GlideError: it was refused, or there is no connection.
        """
        if self._client is None:
            raise ClosingError("the connection is closed")
        return await self._client.custom_command(arguments)

    async def check(self) -> None:
        """Connect if need be, and ask the nodes that are cut off, or were not heard of for a while; `circuits` tells.

        Raises:
            TierUnavailable: there is no map of nodes.
        """
        topology = await self.topology()
        if self._guards.any_suspect:
            self.doubt_map()  # another one may have been promoted
        await self._watch.check(topology.nodes)

    def circuits(self) -> Mapping[str, Circuit]:
        """The circuit of each node, by name; none: there is no map of nodes."""
        return {} if self._topology is None else self._watch.circuits(self._topology.nodes)

    @property
    def in_doubt(self) -> bool:
        """Whether `check` would find anything out."""
        return self._topology is None or self._guards.any_suspect or bool(self._watch.unheard(self._topology.nodes))

    @property
    def fault(self) -> str | None:
        """Why L2 cannot be reached, or what a node was cut off for last, in words; None: neither happened.

        Without a map of nodes only the former counts: what a node was cut off for once says nothing of now.
        """
        if self._last_failure is not None:
            return self._fault()
        return None if self._topology is None else self._watch.fault

    @property
    def opened(self) -> int:
        """How often a node was cut off."""
        return self._watch.opened

    async def _sign_of_life(self, node: Node) -> GlideError | None:
        client = self._client
        if client is None:
            return ClosingError("the connection is closed")
        try:
            if isinstance(client, GlideClusterClient):
                await client.ping(route=SlotIdRoute(SlotType.PRIMARY, node.slots[0][0]))
            else:
                await client.ping()
        except GlideError as fault:
            return fault
        return None

    async def close(self) -> None:
        """Close the connection; may be called twice, and before any connection was made."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._awake.stop()
        await self._links.close()
        await self._watch.close()
        client, self._client, self._topology = self._client, None, None
        if client is not None:
            await client.close()

    def _is_older(self, seconds: float) -> bool:
        return self._monotonic() - self._read_at > seconds

    def _may_attempt(self) -> bool:
        return not self._closed and self._connecting is None and self._monotonic() >= self._retry_at

    def _away(self) -> TierUnavailable:
        away = TierUnavailable(f"L2 at {self._connector.addresses}: still away ({self._fault()})")
        away.__cause__ = self._last_failure
        return away

    def _fault(self) -> str:
        fault = self._last_failure
        return f"{type(fault).__name__}: {fault}" if fault is not None else "the connection was closed meanwhile"

    def _attempt(self) -> asyncio.Task[None]:
        """The attempt to connect, or to read the map anew, that is under way; a new one if there is none."""
        if self._connecting is not None:
            return self._connecting
        if self._closed:
            raise TierUnavailable("L2: the connection is closed")
        if not self._may_attempt():
            raise self._away()
        self._began_at = self._monotonic()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="holdfast L2 connecting")
        return self._connecting

    async def _wait_for(self, attempt: asyncio.Task[None]) -> None:
        """Wait until the attempt ends, but not beyond the time of a request since it began: it may take far longer."""
        left = self._began_at + self._request_timeout_seconds - self._monotonic()
        await asyncio.wait([attempt], timeout=max(0.0, left))
        if not attempt.done():
            fault = TierUnavailable(f"L2 at {self._connector.addresses}: no answer yet; connecting goes on")
            self._failed(fault)  # it may go on for long, and is as good as away meanwhile
            raise fault
        if not attempt.cancelled():
            attempt.result()  # raises what nobody foresaw

    async def _connect(self) -> None:
        try:
            topology = await self._reach()
        except (GlideError, TierUnavailable) as fault:
            self._retry_at = self._monotonic() + RECONNECT_SECONDS
            self._failed(fault)
        else:
            if self._last_failure is not None:
                logger.warning("L2 at %s is back", self._connector.addresses)
            self._topology, self._read_at, self._last_failure = topology, self._began_at, None
            self._guards.keep_only(node.name for node in topology.nodes)
            self._links.serve(self._connector.linked(topology))
        finally:
            self._connecting = None

    def _failed(self, fault: Exception) -> None:
        former, self._last_failure = self._last_failure, fault
        if former is None:
            logger.warning("L2 at %s is away, reads go to L3: %s", self._connector.addresses, self._fault())

    async def _reach(self) -> Topology:
        """Read the map of nodes; a new client is kept if that succeeds, for only then it is connected."""
        if self._client is not None:
            return await self._connector.read_topology(self._client)
        client = await self._connector.open()
        self._awake.start()
        try:
            topology = await self._connector.read_topology(client)
        except BaseException:
            await client.close()
            raise
        self._client = client
        return topology
