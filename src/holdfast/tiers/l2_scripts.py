"""Runs scripts on nodes of L2, on several at once; a node that fails costs only its own answer."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from glide import ClusterBatch, ClusterBatchOptions, GlideClusterClient, GlideError
from glide import TimeoutError as GlideTimeoutError

from holdfast.errors import TierUnavailable
from holdfast.tiers.awake import AwakeClock
from holdfast.tiers.l2_connect import Client
from holdfast.tiers.l2_topology import Node
from holdfast.tiers.l2_watch import NodeWatch, is_lost

_STALE_TOPOLOGY: Final = ("non local key", "MOVED", "READONLY", "CLUSTERDOWN")

Call = Sequence[bytes]
"""The key of the node's watermark, then the script's arguments."""


class Script:
    """One Lua script of this package.

    Args:
        flags: for its first line, if it has none; with `allow-oom` it also runs where memory has run out.
    """

    def __init__(self, name: str, *, flags: str = "") -> None:
        first = f"#!lua flags={flags}\n".encode() if flags else b""
        self.source: bytes = first + files("holdfast.tiers").joinpath("lua", f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Connected(Protocol):
    """The connection that scripts go by."""

    @property
    def connected(self) -> Client | None:
        """The client, if there is one now."""

    async def command(self, arguments: list[str | bytes]) -> Any:
        """Send a command to whoever serves its key. Raises GlideError."""

    def doubt_map(self) -> None:
        """An answer does not fit the map of nodes."""

    def forget_map(self) -> None:
        """A node said that it no longer serves what was asked of it."""


class ScriptRunner:
    """Runs them on one connection.

    Args:
        awake: the clock by which calls are late.
    """

    def __init__(self, connection: Connected, watch: NodeWatch, awake: AwakeClock) -> None:
        self._connection = connection
        self._watch = watch
        self._guards = watch.guards
        self._awake = awake
        self._options = ClusterBatchOptions()

    async def run(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        """Run a script on several nodes at once; a node that fails costs only its own answer.

        Each call names the key of its node's watermark, as the script's only one: the client routes by it in half the
        time that a route costs, to whoever serves that slot now. All nodes share one request to the client, which
        costs as much as a request for one of them.

        Returns:
            By node, what the script returned, or a `TierUnavailable` if the node did not answer in time or refused.
            If one no longer serves the keys, the map of nodes was forgotten, and the next call reads it anew.
        """
        refused: dict[Node, Any] = {}
        if self._guards.any_suspect and (refused := self._watch.refused(calls)):
            calls = {node: call for node, call in calls.items() if node not in refused}
        client = self._connection.connected
        if isinstance(client, GlideClusterClient) and len(calls) > 1:
            began = self._awake.monotonic()
            try:
                replies = await _run_together(client, script, calls.values(), self._options_together())
            except GlideError as fault:  # a silent node kept all the others waiting; asked apart, it shows itself
                if isinstance(fault, GlideTimeoutError):
                    self._guards.expired()
            else:
                answers = dict(zip(calls, replies, strict=True))
                faults = {node: reply for node, reply in answers.items() if isinstance(reply, GlideError)}
                heard = [node.name for node in calls if node not in faults or not is_lost(faults[node], node)]
                self._guards.answered_together(heard, began, self._awake.monotonic())
                if faults:
                    answers |= await self._settled(script, calls, faults)
                return answers | refused
        return refused | await self._apart(script, calls)

    def _options_together(self) -> ClusterBatchOptions:
        """Of a request to several nodes; made anew only when its timeout has changed by a millisecond."""
        timeout_ms = math.ceil(self._guards.timeout_seconds * 1000)
        if self._options.timeout != timeout_ms:
            self._options = ClusterBatchOptions(timeout=timeout_ms)
        return self._options

    async def _settled(
        self, script: Script, calls: Mapping[Node, Call], faults: Mapping[Node, GlideError]
    ) -> dict[Node, Any]:
        """What becomes of the faults of a batch: nodes that were not heard, or lacked the script, are asked apart."""
        again = {node: calls[node] for node, fault in faults.items() if _is_unknown(fault) or is_lost(fault, node)}
        others = {node: self._unavailable(node, fault) for node, fault in faults.items() if node not in again}
        return others | await self._apart(script, again)

    async def _apart(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        if len(calls) == 1:
            ((node, call),) = calls.items()
            return {node: await self._run_alone(script, node, call)}
        answers = await asyncio.gather(*(self._run_alone(script, node, call) for node, call in calls.items()))
        return dict(zip(calls, answers, strict=True))

    async def _run_alone(self, script: Script, node: Node, call: Call) -> Any:
        began = self._awake.monotonic()
        try:
            answer = await self._run_known(script, call)
        except GlideError as fault:
            if not is_lost(fault, node):
                self._watch.answered(node, began)
            elif self._watch.failed(node, began, fault):
                self._connection.doubt_map()  # another one may serve its slots by now
            return self._unavailable(node, fault)
        self._watch.answered(node, began)
        return answer

    async def _run_known(self, script: Script, call: Call) -> Any:
        """Run a script, sending it along if the node does not know it yet."""
        try:
            return await self._connection.command(["EVALSHA", script.digest, "1", *call])
        except GlideError as fault:
            if not _is_unknown(fault):
                raise
        return await self._connection.command(["EVAL", script.source, "1", *call])

    def _unavailable(self, node: Node, fault: Exception) -> TierUnavailable:
        if any(sign in str(fault) for sign in _STALE_TOPOLOGY):
            self._connection.forget_map()
        error = TierUnavailable(f"L2 node {node.name}: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error


async def _run_together(
    client: GlideClusterClient, script: Script, calls: Iterable[Call], options: ClusterBatchOptions
) -> Sequence[Any]:
    batch = ClusterBatch(is_atomic=False)
    for call in calls:
        batch.custom_command(["EVALSHA", script.digest, "1", *call])
    return await client.exec(batch, raise_on_error=False, options=options) or ()


def _is_unknown(fault: Exception) -> bool:
    """The node does not know the script yet."""
    return "NoScript" in str(fault) or "NOSCRIPT" in str(fault)
