"""Runs scripts on nodes of L2, on several at once; a node that fails costs only its own answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from glide import GlideError

from holdfast.errors import TierUnavailable
from holdfast.tiers.awake import AwakeClock
from holdfast.tiers.l2_links import Links
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

    def __init__(self, connection: Connected, links: Links, watch: NodeWatch, awake: AwakeClock) -> None:
        self._connection = connection
        self._links = links
        self._watch = watch
        self._guards = watch.guards
        self._awake = awake

    async def run(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        """Run a script on several nodes at once; a node that fails costs only its own answer.

        Each call names the key of its node's watermark, as the script's only one: by it the client routes, to whoever
        serves that slot now. Links carry the calls; those without a plain answer are asked anew, by the client.

        Returns:
            By node, what the script returned, or a `TierUnavailable` if the node did not answer in time or refused.
            If one no longer serves the keys, the map of nodes was forgotten, and the next call reads it anew.
        """
        refused: dict[Node, Any] = {}
        if self._guards.any_suspect and (refused := self._watch.refused(calls)):
            calls = {node: call for node, call in calls.items() if node not in refused}
        answers = refused | await self._by_links(script, calls)
        rest = {node: call for node, call in calls.items() if node not in answers}
        return answers | await self._apart(script, rest) if rest else answers

    async def _by_links(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
        """The plain answers; a link that is missing, lost or silent, and errors, bring none."""
        began = self._awake.monotonic()
        came = await self._links.run(script.digest, calls, self._guards.timeout_seconds)
        if came.doubtful:
            self._connection.doubt_map()
        self._guards.answered_together(
            [node.name for node in came.replies], began, self._awake.monotonic(), expired=came.expired
        )
        return came.replies

    async def _apart(self, script: Script, calls: Mapping[Node, Call]) -> dict[Node, Any]:
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


def _is_unknown(fault: Exception) -> bool:
    """The node does not know the script yet."""
    return "NoScript" in str(fault) or "NOSCRIPT" in str(fault)
