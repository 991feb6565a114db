"""Watches the nodes of L2: who must not be asked, what is logged of it, and the probes by which a node comes back.

Nobody waits for a probe. One begins when a call was refused and one is due, and with each `check`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from glide import ClosingError, GlideError
from glide import ConnectionError as GlideConnectionError
from glide import TimeoutError as GlideTimeoutError

from holdfast.errors import TierUnavailable
from holdfast.recovery.breaker import Circuit
from holdfast.tiers.l2_guards import RULES, NodeGuards
from holdfast.tiers.l2_topology import Node

logger = logging.getLogger("holdfast")
UNHEARD_SECONDS: Final = 0.3
"""A node that was not heard of for so long is asked by `check` whether it is there."""
_LOST: Final = (GlideTimeoutError, GlideConnectionError, ClosingError)
_LOST_IN_WORDS: Final = ("BrokenPipe", "RecvError", "Connection in recovery", "AllConnectionsUnavailable")
"""What the client says, as an error of the request, of a connection that it has lost."""


class NodeWatch:
    """The nodes of one connection.

    Args:
        ask: asks whoever serves a node's slots for a sign of life; the fault if it was refused, or there is none.

    Attributes:
        guards: the rules.
        fault: what a node was cut off for last, in words; None: none ever was.
        opened: how often one was cut off.
    """

    def __init__(
        self,
        ask: Callable[[Node], Awaitable[GlideError | None]],
        *,
        monotonic: Callable[[], float],
        request_timeout_seconds: float,
    ) -> None:
        self.guards = NodeGuards(RULES, request_timeout_seconds=request_timeout_seconds)
        self.fault: str | None = None
        self.opened = 0
        self._cause: GlideError | None = None
        self._ask = ask
        self._monotonic = monotonic
        self._probes: set[asyncio.Task[None]] = set()
        self._closed = False

    def refused(self, nodes: Iterable[Node]) -> dict[Node, Any]:
        """Those of some nodes that must not be asked, each with the error that says so; their probes begin if due."""
        refused: dict[Node, Any] = {node: self._refusal(node) for node in nodes if self.guards.is_cut_off(node.name)}
        self.begin_probes(refused)
        return refused

    def answered(self, node: Node, began: float) -> None:
        """A node that was asked alone has answered, perhaps that it refuses; too late, that counts as a failure."""
        now, was_cut_off = self._monotonic(), self.guards.is_cut_off(node.name)
        self.guards.answered(node.name, began, now)
        if not was_cut_off and self.guards.is_cut_off(node.name):
            self._cut_off(node, f"answers took too long, the last one {now - began:.2g} s", None)

    def failed(self, node: Node, began: float, fault: GlideError) -> bool:
        """A node did not answer; says whether it is cut off for that, and was not before."""
        was_cut_off = self.guards.is_cut_off(node.name)
        self.guards.failed(node.name, began, self._monotonic())
        if was_cut_off or not self.guards.is_cut_off(node.name):
            return False
        self._cut_off(node, f"{type(fault).__name__}: {fault}", fault)
        return True

    def unheard(self, nodes: Iterable[Node]) -> list[Node]:
        """Those that were not heard of for a while, and may be asked."""
        now, guards = self._monotonic(), self.guards
        return [
            node
            for node in nodes
            if now - guards.heard_at(node.name) > UNHEARD_SECONDS and not guards.is_cut_off(node.name)
        ]

    async def check(self, nodes: Sequence[Node]) -> None:
        """Ask the nodes that were not heard of for a while, and wait for probes of those that are cut off."""
        self.begin_probes(nodes)
        await asyncio.gather(*map(self._ping, self.unheard(nodes)), *map(asyncio.shield, self._probes))

    def begin_probes(self, nodes: Iterable[Node]) -> None:
        """Have those asked that are cut off, where a probe is due."""
        for node in nodes:
            if not self._closed and (permit := self.guards.probe(node.name, self._monotonic())) is not None:
                probe = asyncio.get_running_loop().create_task(self._probe(node, permit), name="holdfast L2 probe")
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)

    def circuits(self, nodes: Iterable[Node]) -> Mapping[str, Circuit]:
        """The circuit of each node, by name."""
        return self.guards.circuits(node.name for node in nodes)

    async def close(self) -> None:
        """End the probes; may be called twice."""
        self._closed = True
        for probe in self._probes:
            probe.cancel()
        if self._probes:
            await asyncio.wait(self._probes)

    async def _probe(self, node: Node, permit: int | None) -> None:
        """Ask a node that is cut off, as often as its breaker wants to see it answer."""
        while permit is not None:
            fault = await self._ask(node)
            self.guards.probed(node.name, permit, self._monotonic(), well=not is_lost(fault, node))
            permit = self.guards.probe(node.name, self._monotonic())
        if not self.guards.is_cut_off(node.name):
            logger.warning("L2 node %s answers again", node.name)

    async def _ping(self, node: Node) -> None:
        began = self._monotonic()
        fault = await self._ask(node)
        if fault is not None and is_lost(fault, node):
            self.failed(node, began, fault)
        else:
            self.answered(node, began)

    def _cut_off(self, node: Node, words: str, cause: GlideError | None) -> None:
        self.fault, self._cause = words, cause
        self.opened += 1
        logger.warning("L2 node %s is cut off, reads of its keys go to L3: %s", node.name, words)

    def _refusal(self, node: Node) -> TierUnavailable:
        error = TierUnavailable(f"L2 node {node.name}: it is cut off, for it did not answer ({self.fault})")
        error.__cause__ = self._cause
        return error


def is_lost(fault: GlideError | None, node: Node) -> bool:
    """Whether a fault says that a node did not answer; whatever a server says for itself is an answer.

    A request to a node that was lost may be sent to any other, which says that the lost one has the keys.
    """
    if fault is None:
        return False
    if isinstance(fault, _LOST):
        return True
    words = str(fault)
    return any(sign in words for sign in _LOST_IN_WORDS) or ("Moved" in words and f" {node.name};" in words)
