"""Opens clients of L2, and links to its nodes: addresses, whether it is a cluster, and its map of nodes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis
import msgspec
from glide import (
    AdvancedGlideClientConfiguration,
    AdvancedGlideClusterClientConfiguration,
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
from holdfast.tiers.l2_link import Link
from holdfast.tiers.l2_topology import Topology

INFLIGHT_MAX: Final = 10_000
"""Requests the client may have under way; far above what batching sends, so that it never decides."""

Client = GlideClient | GlideClusterClient


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


class RedisConnector:
    """Opens clients; keeps none.

    Args:
        urls: any nodes of one cluster, or one server.
        request_timeout_seconds: for one request.
        connect_timeout_seconds: for one connection.
        ca_pem: certificates to trust instead of the system's, for `rediss` URLs.

    Attributes:
        addresses: of the URLs, without their passwords when shown.
        request_timeout_seconds: as given.

    Raises:
        SettingsError: the URLs cannot be used together.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        request_timeout_seconds: float,
        connect_timeout_seconds: float,
        ca_pem: bytes | None = None,
    ) -> None:
        self.addresses = [RedisAddress.parse(url) for url in urls]
        if not self.addresses:
            raise SettingsError("redis_urls: at least one URL is needed")
        if len({(each.tls, each.user, each.password) for each in self.addresses}) > 1:
            raise SettingsError("redis_urls: all nodes have the same scheme, user and password")
        if self.addresses[0].user and not self.addresses[0].password:
            raise SettingsError("redis_urls: there is a user without a password")
        self.request_timeout_seconds = request_timeout_seconds
        self._request_timeout_ms = max(1, round(request_timeout_seconds * 1000))
        self._connect_timeout_ms = max(1, round(connect_timeout_seconds * 1000))
        self._ca_pem = ca_pem
        self._tls = TlsAdvancedConfiguration(root_pem_cacerts=ca_pem) if ca_pem else None
        self._ssl: ssl.SSLContext | None = None

    async def open(self) -> Client:
        """A client, which connects with its first request; until then only the kind of server is known.

        Raises:
            GlideError: no server answered.
        """
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

    def linked(self, topology: Topology) -> frozenset[str]:
        """The nodes that links may lead to: of servers that are no cluster, only the client knows who takes writes."""
        is_known = topology.is_cluster or len(self.addresses) == 1
        return frozenset(node.name for node in topology.nodes) if is_known else frozenset()

    async def dial(self, name: str) -> Link:
        """A link to a node, by its name.

        Raises:
            OSError: it cannot be reached, or was silent for the time of a connection; ssl.SSLError among them.
            ValueError: the name is no address, or the node refused what a connection begins with.
        """
        host, _, port = name.rpartition(":")
        if not host:  # a node that does not know its own address
            raise ValueError(f"{name!r} is no address")
        async with asyncio.timeout(self._connect_timeout_ms / 1000):
            tls = await asyncio.to_thread(self._tls_context) if self.addresses[0].tls else None
            transport, link = await asyncio.get_running_loop().create_connection(Link, host, int(port), ssl=tls)
            # A firewall forgets a connection that nobody uses, and the first to use it again would wait in vain.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                await self._greet(link)
            except BaseException:
                link.end()
                raise
        return link

    async def _greet(self, link: Link) -> None:
        first = self.addresses[0]
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", "holdfast-link")]  # for people; it may be refused
        if first.password:
            commands.insert(0, ("AUTH", *((first.user,) if first.user else ()), first.password))
        replies = await link.greet(commands)
        if not link.is_open:
            raise ConnectionResetError("the connection was closed")
        if first.password and isinstance(replies[0], hiredis.ReplyError):
            raise ValueError(str(replies[0]))

    def _tls_context(self) -> ssl.SSLContext:
        """Made once: reading the system's certificates takes a while."""
        if self._ssl is None:
            pem = self._ca_pem.decode() if self._ca_pem else None
            self._ssl = ssl.create_default_context(cadata=pem)
        return self._ssl

    async def _is_cluster(self) -> bool:
        """Ask the first node that answers: clients for a cluster and for a single server are different ones."""
        for position, address in enumerate(self._nodes(), start=1):
            probe = await GlideClient.create(self._single([address], read_only=True))  # a replica may answer too
            try:
                return b"cluster_enabled:1" in _bytes(await probe.custom_command(["INFO", "cluster"]))
            except GlideError:
                if position == len(self.addresses):
                    raise
            finally:
                await probe.close()
        raise TierUnavailable("L2: no address to ask")

    def _nodes(self) -> list[NodeAddress]:
        return [NodeAddress(address.host, address.port) for address in self.addresses]

    def _single(self, nodes: list[NodeAddress], *, read_only: bool) -> GlideClientConfiguration:
        advanced = AdvancedGlideClientConfiguration(connection_timeout=self._connect_timeout_ms, tls_config=self._tls)
        return GlideClientConfiguration(nodes, advanced_config=advanced, read_only=read_only, **self._common())

    def _common(self) -> dict[str, Any]:
        first = self.addresses[0]
        return {
            "use_tls": first.tls,
            "credentials": ServerCredentials(first.password, first.user) if first.password else None,
            "request_timeout": self._request_timeout_ms,
            "client_name": "holdfast",
            "inflight_requests_limit": INFLIGHT_MAX,
            # Otherwise the client connects in the event loop's thread, and the whole server stands still meanwhile.
            "lazy_connect": True,
        }

    async def read_topology(self, client: Client) -> Topology:
        """Ask for the map of nodes.

        Raises:
            GlideError: no server answered.
            TierUnavailable: the cluster is not formed yet.
        """
        if isinstance(client, GlideClient):
            await client.custom_command(["PING"])
            return Topology.single(repr(self.addresses[0]))
        reply = await client.custom_command(["CLUSTER", "SLOTS"])
        if not isinstance(reply, list) or not reply:
            raise TierUnavailable(f"L2 at {self.addresses}: the cluster serves no slots yet")
        return Topology.from_slots(reply)


def _bytes(reply: Any) -> bytes:
    return reply if isinstance(reply, bytes) else str(reply).encode()
