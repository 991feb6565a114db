"""Scripts of L2 whose effect survives the death of a primary (rule W2).

The calls of one moment on one name are made in their order, and then secured together: where the slot has a replica,
by a WAIT for one; else by the server's append-only file. Four traps are closed here:

* A WAIT speaks of what its own connection wrote. The client reconnects without a word, so it is asked which connection
  it has before the calls and together with the WAIT, on the same route; if that differs, nothing is known. Numbers
  alone would not do: each node counts its connections from 1, so after a failover the other may well have the same.
* A client that lost a node to a failover goes on asking it for long, so after a failure a new client is opened.
* A replica that is on its way, or was lost a moment ago, may yet be promoted. So what counts is not whether one is
  connected but whether the cluster still lists one; it stops to once the replica is known to have failed.
* While an fsync is slow, a server that is to fsync every second answers before it has given the change to the
  operating system, for up to two seconds; killed then, it has forgotten it. So its buffer must have been empty, after
  the calls. (WAITAOF will not do: Valkey 9 without replicas answered it at once, long before an fsync was due.)

A round is three requests: which connection; the calls, one after the other; and in one pipeline on one connection what
proves them safe, which connection, and what the cluster lists. What it listed the last time only decides which proof is
asked for beside that; if the list says otherwise by now, the other proof is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from glide import (
    Batch,
    ClosingError,
    ClusterBatch,
    ClusterBatchOptions,
    GlideClient,
    GlideError,
    RequestError,
    SlotKeyRoute,
    SlotType,
)
from glide import ConnectionError as GlideConnectionError
from glide import TimeoutError as GlideTimeoutError

from holdfast.errors import HoldfastError, OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import Client
from holdfast.tiers.l2_lent import LentClients
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_securing import connection_of, is_empty, lines_of, replicas_of

logger = logging.getLogger("holdfast")
CALLS_MAX: Final = 1000
"""Calls that may wait on one name; the next is refused."""
WAIT_MS: Final = 200
"""Of one WAIT: less than any request may take, for the client would give up before."""
ATTEMPTS: Final = 40
"""Of securing one round; a replica that was killed is no longer listed after a few seconds."""
PAUSE_SECONDS: Final = 0.02
LANES_MAX: Final = 256
"""Names that are remembered while nothing waits on them."""


class Secured(NamedTuple):
    """What a script returned, and what vouches for it.

    Attributes:
        replicas: how many had acknowledged what it did; 0: the file has it.
        node: which one vouches, by its id in the cluster; empty: there is no cluster. While a slot moves, a script may
            have run on the next one: only the script can tell.
    """

    answer: Any
    replicas: int
    node: str


@dataclass(slots=True)
class _Call:
    script: Script
    names: Sequence[bytes]
    arguments: Sequence[str | bytes]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Lane:
    """What waits on one name.

    Attributes:
        listed: replicas of its slot, as the cluster listed them the last time.
    """

    waiting: deque[_Call] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    listed: int = 0


class SecuredCalls:
    """Runs scripts by name, and secures what they did.

    Args:
        connection: of its own: a WAIT holds up all that comes behind it.
        sleep: pauses, seconds.
        replicas: to wait for, as far as the cluster lists so many; where it lists any, one has to have it in the end.
        attempts: of securing one round.

    Attributes:
        on_lost: called when a node did not answer, and a new client is opened.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        sleep: Callable[[float], Awaitable[object]],
        replicas: int = 1,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._connection = connection
        self._sleep = sleep
        self._replicas = replicas
        self._attempts = attempts
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
        return (await self.run_counted(names, script, arguments)).answer

    async def run_counted(self, names: Sequence[bytes], script: Script, arguments: Sequence[str | bytes]) -> Secured:
        """The same, with how many replicas acknowledged it."""
        name = names[0]
        lane = self._lane(name)
        if len(lane.waiting) >= CALLS_MAX:
            raise Overloaded(f"L2: {CALLS_MAX} calls on {name!r} are waiting")
        call = _Call(script, names, arguments, asyncio.get_running_loop().create_future())
        lane.waiting.append(call)
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._work(name, lane), name="holdfast L2 secured calls")
        secured: Secured = await call.done
        return secured

    async def close(self) -> None:
        """End what is under way; may be called twice."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._lanes.clear()
        await self._clients.close()

    def _lane(self, name: bytes) -> _Lane:
        if name not in self._lanes and len(self._lanes) >= LANES_MAX:
            self._lanes = {each: lane for each, lane in self._lanes.items() if lane.task is not None}
        return self._lanes.setdefault(name, _Lane())

    async def _work(self, name: bytes, lane: _Lane) -> None:
        calls: list[_Call] = []
        try:
            while lane.waiting:
                calls = list(lane.waiting)
                lane.waiting.clear()
                await self._round(name, lane, calls)
        finally:
            lane.task = None
            for call in (*calls, *lane.waiting):  # only if this ends before its time
                _settle(call, OutcomeUnknown("L2: the connection was closed"))
            lane.waiting.clear()

    async def _round(self, name: bytes, lane: _Lane, calls: Sequence[_Call]) -> None:
        try:
            async with self._clients.lent() as client:
                answers = await self._answers(client, name, lane, calls)
                if any(isinstance(each, OutcomeUnknown | TierUnavailable) for each in answers):
                    self._give_up(client)
        except TierUnavailable as fault:  # there is no client
            answers = [fault] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            _settle(call, answer)

    async def _answers(self, client: Client, name: bytes, lane: _Lane, calls: Sequence[_Call]) -> list[Any]:
        """What each call returned, secured, or what is known of it: an error."""
        route = SlotKeyRoute(SlotType.PRIMARY, name.decode())
        try:
            told, node = await _whereabouts(client, route)
        except HoldfastError as fault:
            return [TierUnavailable(str(fault))] * len(calls)
        answers = [await made(client, call.script, call.names, call.arguments) for call in calls]
        safe = await self._secured(client, name, lane, route, connection_of(told))
        return [answer if isinstance(answer, HoldfastError) else _joined(answer, safe, node) for answer in answers]

    async def _secured(
        self, client: Client, name: bytes, lane: _Lane, route: SlotKeyRoute, connection: str
    ) -> int | HoldfastError:
        """How many replicas have what was done on that connection, or why nothing is known of it."""
        for _ in range(self._attempts):
            guessed = lane.listed
            try:
                here, replicas = await self._look(client, name, lane, route)
            except HoldfastError as fault:
                return OutcomeUnknown(f"L2: what was done could not be secured: {fault}")
            if here != connection:
                return OutcomeUnknown("L2: the connection was lost meanwhile")
            if replicas is not None:
                return replicas
            if bool(guessed) == bool(lane.listed):
                await self._sleep(PAUSE_SECONDS)
        return OutcomeUnknown("L2: neither a replica nor a file has taken what was done")

    async def _look(self, client: Client, name: bytes, lane: _Lane, route: SlotKeyRoute) -> tuple[str, int | None]:
        """Which connection answered, and how many replicas have what was done on it; None: it is not safe yet."""
        wanted = min(max(1, self._replicas), lane.listed)
        proof = ["WAIT", str(wanted), str(WAIT_MS)] if wanted else ["INFO", "persistence"]
        listing = ["INFO", "replication"] if isinstance(client, GlideClient) else ["CLUSTER", "SLOTS"]
        proven, told, listed = await _ask(client, [proof, ["CLIENT", "INFO"], listing], route)
        lane.listed = replicas_of(listed, name)
        if bool(lane.listed) != bool(wanted):
            return connection_of(told), None  # that proof does not count here
        replicas = int(proven) if wanted else 0
        is_safe = replicas >= 1 if wanted else self._is_with_the_system(lines_of(proven))
        return connection_of(told), replicas if is_safe else None

    def _is_with_the_system(self, file: Mapping[str, str]) -> bool:
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


async def _ask(client: Client, commands: Sequence[Sequence[str]], route: SlotKeyRoute) -> Sequence[Any]:
    """The answers of one node to several commands, by one connection: they are one pipeline, and none has a key.

    A pipeline without a route would be spread over nodes, and one that is a transaction keeps WAIT from waiting.
    """
    try:
        if isinstance(client, GlideClient):
            single = Batch(is_atomic=False)
            for words in commands:
                single.custom_command(list(words))
            return await client.exec(single, raise_on_error=True) or ()
        batch = ClusterBatch(is_atomic=False)
        for words in commands:
            batch.custom_command(list(words))
        return await client.exec(batch, raise_on_error=True, options=ClusterBatchOptions(route=route)) or ()
    except GlideError as fault:
        raise understood(fault) from fault


async def made(client: Client, script: Script, names: Sequence[bytes], arguments: Sequence[str | bytes]) -> Any:
    """What a script returned, or what its error means."""
    for words in (["EVALSHA", script.digest], ["EVAL", script.source]):
        try:
            return await client.custom_command([*words, str(len(names)), *names, *arguments])
        except GlideError as fault:
            if "noscript" in str(fault).lower():
                continue
            error = understood(fault)
            error.__cause__ = fault
            return error
    return TierUnavailable("L2: a script is not known right after it was sent")


async def _whereabouts(client: Client, route: SlotKeyRoute) -> tuple[Any, str]:
    """What a node says of the connection to it, and its id in the cluster."""
    if isinstance(client, GlideClient):
        return (await _ask(client, [["CLIENT", "INFO"]], route))[0], ""
    told, node = await _ask(client, [["CLIENT", "INFO"], ["CLUSTER", "MYID"]], route)
    return told, node.decode()


def _joined(answer: Any, safe: int | HoldfastError, node: str) -> Secured | HoldfastError:
    return safe if isinstance(safe, HoldfastError) else Secured(answer, safe, node)


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
