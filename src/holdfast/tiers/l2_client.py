"""The connection to L2: cluster or single node, scripts run on a chosen node, and the map of which node serves what.

Connecting is lazy and repeated on demand, at most once a second, so that L2 may be away when a server starts
and come back later. All errors of the client leave this module as `TierUnavailable`, with the cause chained.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from glide import (
    AdvancedGlideClientConfiguration,
    AdvancedGlideClusterClientConfiguration,
    ClosingError,
    ClusterBatch,
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    GlideError,
    Logger,
    LogLevel,
    NodeAddress,
    ServerCredentials,
    TlsAdvancedConfiguration,
)

from holdfast.errors import SettingsError, TierUnavailable
from holdfast.tiers.l2_topology import Node, Topology

RECONNECT_SECONDS: Final = 1.0
INFLIGHT_MAX: Final = 10_000
"""Requests the client may have under way; far above what batching sends, so that it never decides."""
_STALE_TOPOLOGY = ("non local key", "MOVED", "READONLY", "CLUSTERDOWN")


Call = Sequence[bytes]
"""A key of the node, then the script's arguments."""


class Script:
    """One Lua script of this package."""

    def __init__(self, name: str) -> None:
        self.source: bytes = files("holdfast.tiers").joinpath("lua", f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class RedisAddress(msgspec.Struct, frozen=True):
    """One parsed URL ``redis[s]://[user[:password]@]host[:port]``."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read a URL.

        Raises:
            SettingsError: it is not of the form above; the message never repeats the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
        except ValueError:  # its text may hold a part of the password
            parts, port = urlsplit(""), 0
        if (
            parts.scheme not in {"redis", "rediss"}
            or not parts.hostname
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise SettingsError(
                "redis_urls: one is not redis[s]://[user[:password]@]host[:port]; "
                "percent-encode what has a meaning in URLs, such as / and # in a password"
            )
        password = unquote(parts.password) if parts.password else None
        return cls(parts.hostname, port, unquote(parts.username or "") or None, password, parts.scheme == "rediss")

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("address", repr(self))]


class RedisConnection:
    """A lazily connected client of L2.

    Args:
        urls: any nodes of one cluster, or one server.
        request_timeout_seconds: for one request.
        connect_timeout_seconds: for one connection.
        monotonic: clock in seconds, for the pause between attempts to connect.
        ca_pem: certificates to trust instead of the system's, for `rediss` URLs.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        request_timeout_seconds: float,
        connect_timeout_seconds: float,
        monotonic: Callable[[], float],
        ca_pem: bytes | None = None,
    ) -> None:
        self._addresses = [RedisAddress.parse(url) for url in urls]
        if not self._addresses:
            raise SettingsError("redis_urls: at least one URL is needed")
        if len({(each.tls, each.user, each.password) for each in self._addresses}) > 1:
            raise SettingsError("redis_urls: all nodes have the same scheme, user and password")
        if self._addresses[0].user and not self._addresses[0].password:
            raise SettingsError("redis_urls: there is a user without a password")
        self._request_timeout_ms = max(1, round(request_timeout_seconds * 1000))
        self._connect_timeout_ms = max(1, round(connect_timeout_seconds * 1000))
        self._monotonic = monotonic
        self._tls = TlsAdvancedConfiguration(root_pem_cacerts=ca_pem) if ca_pem else None
        self._client: GlideClient | GlideClusterClient | None = None
        self._topology: Topology | None = None
        self._connecting = asyncio.Lock()
        self._retry_at = 0.0
        self._last_failure: Exception | None = None
        self._closed = False
        self._silent: set[Node] = set()  # asked apart until they answer, so that they keep nobody waiting

    async def topology(self) -> Topology:
        """The current map of nodes, connecting first if need be."""
        if self._topology is None:
            async with self._connecting:
                if self._topology is None:
                    await self._connect()
        assert self._topology is not None  # noqa: S101 - for the type checker; _connect sets it or raises
        return self._topology

    @property
    def map_is_stale(self) -> bool:
        """A node said that it no longer serves what was asked of it; the next `topology()` reads the map anew."""
        return self._client is not None and self._topology is None

    async def run(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        """Run a script on several nodes at once; a node that fails costs only its own answer.

        Each call names one key of its node, as the script's only one: the client routes by it in half the time that a
        route costs. All nodes share one request to the client, which costs as much as a request for one of them.

        Returns:
            By node, what the script returned, or a `TierUnavailable` if the node did not answer in time or refused.
            If one no longer serves the keys, the map of nodes was forgotten, and the next call reads it anew.
        """
        client = self._client
        if isinstance(client, GlideClusterClient) and len(calls) > 1 and self._silent.isdisjoint(calls):
            try:
                replies = await _run_together(client, script, calls.values())
            except GlideError:
                pass  # a silent node kept all the others waiting; asked apart, it shows itself
            else:
                pairs = zip(calls.items(), replies, strict=True)
                return {node: await self._settled(script, node, call, reply) for (node, call), reply in pairs}
        alone = await asyncio.gather(*(self._run_alone(script, node, call) for node, call in calls.items()))
        answers = dict(zip(calls, alone, strict=True))
        self._silent -= answers.keys()
        self._silent |= {node for node, answer in answers.items() if isinstance(answer, TierUnavailable)}
        return answers

    async def _settled(self, script: Script, node: Node, call: Call, reply: Any) -> Any:
        if not isinstance(reply, GlideError):
            return reply
        return await self._run_alone(script, node, call) if _is_unknown(reply) else self._unavailable(node, reply)

    async def _run_alone(self, script: Script, node: Node, call: Call) -> Any:
        try:
            return await self._command(["EVALSHA", script.digest, "1", *call])
        except GlideError as fault:
            if not _is_unknown(fault):
                return self._unavailable(node, fault)
        try:
            return await self._command(["EVAL", script.source, "1", *call])
        except GlideError as fault:
            return self._unavailable(node, fault)

    async def close(self) -> None:
        """Close the connection; may be called twice, and before any connection was made."""
        self._closed = True
        client, self._client, self._topology = self._client, None, None
        if client is not None:
            await client.close()

    async def _command(self, arguments: list[str | bytes]) -> Any:
        if self._client is None:
            raise ClosingError("the connection is closed")
        return await self._client.custom_command(arguments)

    def _unavailable(self, node: Node, fault: Exception) -> TierUnavailable:
        if any(sign in str(fault) for sign in _STALE_TOPOLOGY):
            self._topology = None
        return TierUnavailable(f"L2 node {node.address}: {type(fault).__name__}: {fault}")

    async def _connect(self) -> None:
        if self._closed:
            raise TierUnavailable("L2: the connection is closed")
        if self._monotonic() < self._retry_at:
            raise TierUnavailable(f"L2 at {self._addresses}: still away ({self._last_failure})")
        try:
            if self._client is None:
                self._client = await self._open()
            self._topology = await self._read_topology(self._client)
        except GlideError as fault:
            self._retry_at = self._monotonic() + RECONNECT_SECONDS
            self._last_failure = fault
            raise TierUnavailable(f"L2 at {self._addresses}: {type(fault).__name__}: {fault}") from fault

    async def _open(self) -> GlideClient | GlideClusterClient:
        # The client logs each refused request on stderr; every one of them reaches our caller as an error
        # already.
        Logger.init(LogLevel.OFF)
        if await self._is_cluster():
            advanced = AdvancedGlideClusterClientConfiguration(
                connection_timeout=self._connect_timeout_ms, tls_config=self._tls
            )
            return await GlideClusterClient.create(
                GlideClusterClientConfiguration(self._nodes(), advanced_config=advanced, **self._common())
            )
        return await GlideClient.create(self._single(self._nodes(), read_only=False))

    async def _is_cluster(self) -> bool:
        """Ask the first node that answers: clients for a cluster and for a single server are different ones."""
        for position, address in enumerate(self._nodes(), start=1):
            try:
                # read_only: a replica may answer too.
                probe = await GlideClient.create(self._single([address], read_only=True))
            except GlideError:
                if position == len(self._addresses):
                    raise
                continue
            try:
                return b"cluster_enabled:1" in _bytes(await probe.custom_command(["INFO", "cluster"]))
            finally:
                await probe.close()
        raise TierUnavailable("L2: no address to ask")

    def _nodes(self) -> list[NodeAddress]:
        return [NodeAddress(address.host, address.port) for address in self._addresses]

    def _single(self, nodes: list[NodeAddress], *, read_only: bool) -> GlideClientConfiguration:
        advanced = AdvancedGlideClientConfiguration(connection_timeout=self._connect_timeout_ms, tls_config=self._tls)
        return GlideClientConfiguration(nodes, advanced_config=advanced, read_only=read_only, **self._common())

    def _common(self) -> dict[str, Any]:
        first = self._addresses[0]
        return {
            "use_tls": first.tls,
            "credentials": ServerCredentials(first.password, first.user) if first.password else None,
            "request_timeout": self._request_timeout_ms,
            "client_name": "holdfast",
            "inflight_requests_limit": INFLIGHT_MAX,
        }

    async def _read_topology(self, client: GlideClient | GlideClusterClient) -> Topology:
        if isinstance(client, GlideClient):
            return Topology.single(repr(self._addresses[0]))
        reply = await client.custom_command(["CLUSTER", "SLOTS"])
        if not isinstance(reply, list) or not reply:
            raise TierUnavailable(f"L2 at {self._addresses}: the cluster serves no slots yet")
        return Topology.from_slots(reply)


def _bytes(reply: Any) -> bytes:
    return reply if isinstance(reply, bytes) else str(reply).encode()


async def _run_together(client: GlideClusterClient, script: Script, calls: Iterable[Call]) -> Sequence[Any]:
    batch = ClusterBatch(is_atomic=False)
    for call in calls:
        batch.custom_command(["EVALSHA", script.digest, "1", *call])
    return await client.exec(batch, raise_on_error=False) or ()


def _is_unknown(fault: Exception) -> bool:
    """The node does not know the script yet."""
    return "NoScript" in str(fault) or "NOSCRIPT" in str(fault)
