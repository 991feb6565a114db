"""Scripts of L2 whose effect survives the death of a primary (rule W2).

The calls of one moment on one name are made in their order, and then secured together: where the slot has a replica,
by a WAIT for one; else by the server's append-only file. Four traps are closed here:

* A WAIT speaks of what its own connection wrote. The client reconnects without a word, so the connection's number is
  asked before the calls and after the WAIT, on the same route; if it differs, nothing is known.
* A client that lost a node to a failover goes on asking it for long, so after a failure a new client is opened.
* A replica that is on its way, or was lost a moment ago, may yet be promoted. So what counts is not whether one is
  connected but whether the cluster still lists one; it stops to once the replica is known to have failed.
* While an fsync is slow, a server that is to fsync every second answers before it has given the change to the
  operating system, for up to two seconds; killed then, it has forgotten it. So its buffer must have been empty, after
  the calls. (WAITAOF will not do: Valkey 9 without replicas answered it at once, long before an fsync was due.)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from glide import ClosingError, GlideClient, GlideError, RequestError, SlotKeyRoute, SlotType
from glide import ConnectionError as GlideConnectionError
from glide import TimeoutError as GlideTimeoutError

from holdfast.errors import HoldfastError, OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.tiers.l2_client import RedisConnection, Script
from holdfast.tiers.l2_connect import Client
from holdfast.tiers.l2_lent import LentClients
from holdfast.tiers.l2_securing import has_replica, is_empty, lines_of

logger = logging.getLogger("holdfast")
CALLS_MAX: Final = 1000
"""Calls that may wait on one name; the next is refused."""
WAIT_MS: Final = 200
"""Of one WAIT: less than any request may take, for the client would give up before."""
ATTEMPTS: Final = 40
"""Of securing one round; a replica that was killed is no longer listed after a few seconds."""
PAUSE_SECONDS: Final = 0.02


@dataclass(slots=True)
class _Call:
    script: Script
    names: Sequence[bytes]
    arguments: Sequence[str | bytes]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Lane:
    waiting: deque[_Call] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class SecuredCalls:
    """Runs scripts by name, and secures what they did.

    Args:
        connection: of its own: a WAIT holds up all that comes behind it.
        sleep: pauses, seconds.

    Attributes:
        on_lost: called when a node did not answer, and a new client is opened.
    """

    def __init__(self, connection: RedisConnection, *, sleep: Callable[[float], Awaitable[object]]) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._connection = connection
        self._sleep = sleep
        self._clients = LentClients(connection)
        self._lanes: dict[bytes, _Lane] = {}
        self._warned = False

    async def run(self, names: Sequence[bytes], script: Script, arguments: Sequence[str | bytes]) -> Any:
        """What the script returned, once that is secured; calls of one slot are made in their order.

        Args:
            names: of all keys it touches, the same one first for all calls of a slot. While a slot moves from one node
                to another, a node refuses what it does not hold all keys of; a script that found a key missing there
                would make it anew, and what it holds elsewhere would be lost.

        Raises:
            OutcomeUnknown: it may have been made, and be in effect or not.
            TierUnavailable: it was not made.
            Overloaded: likewise, since too many are waiting, or L2 is out of memory.
        """
        name = names[0]
        lane = self._lanes.setdefault(name, _Lane())
        if len(lane.waiting) >= CALLS_MAX:
            raise Overloaded(f"L2: {CALLS_MAX} calls on {name!r} are waiting")
        call = _Call(script, names, arguments, asyncio.get_running_loop().create_future())
        lane.waiting.append(call)
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._work(name, lane), name="holdfast L2 secured calls")
        return await call.done

    async def close(self) -> None:
        """End what is under way; may be called twice."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._lanes.clear()
        await self._clients.close()

    async def _work(self, name: bytes, lane: _Lane) -> None:
        calls: list[_Call] = []
        try:
            while lane.waiting:
                calls = list(lane.waiting)
                lane.waiting.clear()
                await self._round(name, calls)
        finally:
            lane.task = None
            for call in (*calls, *lane.waiting):  # only if this ends before its time
                _settle(call, OutcomeUnknown("L2: the connection was closed"))
            lane.waiting.clear()

    async def _round(self, name: bytes, calls: Sequence[_Call]) -> None:
        try:
            async with self._clients.lent() as client:
                answers = await self._answers(client, name, calls)
                if any(isinstance(each, OutcomeUnknown | TierUnavailable) for each in answers):
                    self._give_up(client)
        except TierUnavailable as fault:  # there is no client
            answers = [fault] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            _settle(call, answer)

    async def _answers(self, client: Client, name: bytes, calls: Sequence[_Call]) -> list[Any]:
        """What each call returned, or what is known of it: an error."""
        route = SlotKeyRoute(SlotType.PRIMARY, name.decode())
        try:
            number = await _ask(client, ["CLIENT", "ID"], route)
        except HoldfastError as fault:
            return [TierUnavailable(str(fault))] * len(calls)
        answers = [await _made(client, call) for call in calls]
        doubt = await self._secured(client, name, route, number)
        return [answer if doubt is None or isinstance(answer, HoldfastError) else doubt for answer in answers]

    async def _secured(self, client: Client, name: bytes, route: SlotKeyRoute, number: Any) -> HoldfastError | None:
        """None, or why nothing is known of what was done on the connection of that number."""
        for _ in range(ATTEMPTS):
            try:
                is_safe = await self._is_safe(client, name, route)
                if await _ask(client, ["CLIENT", "ID"], route) != number:
                    return OutcomeUnknown("L2: the connection was lost meanwhile")
            except HoldfastError as fault:
                return OutcomeUnknown(f"L2: what was done could not be secured: {fault}")
            if is_safe:
                return None
            await self._sleep(PAUSE_SECONDS)
        return OutcomeUnknown("L2: neither a replica nor a file has taken what was done")

    async def _is_safe(self, client: Client, name: bytes, route: SlotKeyRoute) -> bool:
        listed = ["INFO", "replication"] if isinstance(client, GlideClient) else ["CLUSTER", "SLOTS"]
        if has_replica(await _ask(client, listed, route), name):
            return int(await _ask(client, ["WAIT", "1", str(WAIT_MS)], route)) >= 1
        file = lines_of(await _ask(client, ["INFO", "persistence"], route))
        if file.get("aof_enabled") != "1":
            self._warn()
            return True
        return is_empty(file)

    def _give_up(self, client: Client) -> None:
        if self._clients.give_up(client):
            self.on_lost()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("L2 has neither replicas nor an append-only file: reliable events end with its process")


async def _ask(client: Client, words: Sequence[str | bytes], route: SlotKeyRoute) -> Any:
    try:
        if isinstance(client, GlideClient):
            return await client.custom_command(list(words))
        return await client.custom_command(list(words), route)
    except GlideError as fault:
        raise understood(fault) from fault


async def _made(client: Client, call: _Call) -> Any:
    """What a call returned, or what its error means."""
    for words in (["EVALSHA", call.script.digest], ["EVAL", call.script.source]):
        try:
            return await client.custom_command([*words, str(len(call.names)), *call.names, *call.arguments])
        except GlideError as fault:
            if "noscript" in str(fault).lower():
                continue
            error = understood(fault)
            error.__cause__ = fault
            return error
    return TierUnavailable("L2: a script is not known right after it was sent")


def understood(fault: GlideError) -> HoldfastError:
    """What an error of the client means for the call that it answers."""
    text = f"L2: {type(fault).__name__}: {fault}"
    if isinstance(fault, (GlideTimeoutError, GlideConnectionError, ClosingError)):
        return OutcomeUnknown(text)
    if "OOM" in str(fault):
        return Overloaded(text)
    # The server refused it, unless a script failed half-way.
    refused = isinstance(fault, RequestError) and "user_script" not in str(fault)
    return TierUnavailable(text) if refused else OutcomeUnknown(text)


def _settle(call: _Call, answer: Any) -> None:
    if call.done.done():
        return  # whoever waited was cancelled
    if isinstance(answer, HoldfastError):
        call.done.set_exception(answer)
    else:
        call.done.set_result(answer)
