"""A change of configuration reaches swarms that are running, on every server, without a restart.

Server B runs a swarm and watches what it must obey: its limits, its bot, and a policy (an own kind). Server A changes
them. Runs as it stands: with no settings the embedded PostgreSQL and Valkey cluster are used.

What it shows: `watch`, own kinds, what to do with a change that is not of one document.
What to type:   python examples/live_configuration.py       (it fails if a change is not obeyed within the bound)
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

import holdfast
from holdfast import Bot, Collection, Document, Kind, StateStore, Swarm
from holdfast.documents import SwarmLimits

BOUND_SECONDS = 1.0
"""No server obeys what was changed longer ago than this."""

D = TypeVar("D", bound=Document)


class Policy(Document, frozen=True, kw_only=True):
    """What no swarm may do."""

    forbidden_tools: Sequence[str] = ()


POLICIES = Kind("policy", Policy, configuration=True)


class Live(Generic[D]):
    """A document that is always the newest one."""

    def __init__(self, collection: Collection[D], identifier: str) -> None:
        self._collection = collection
        self._id = identifier
        self.now: D | None = None
        self.changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep it so, until the store is closed."""
        watch = self._collection.watch(self._id)  # before the first read: no change lies between
        self._set(await self._collection.get(self._id))
        async for change in watch:
            if change.id is None:  # of many documents, or changes may have been missed: look
                self._set(await self._collection.get(self._id))
            else:
                self._set(change.document)

    def _set(self, document: D | None) -> None:
        self.now = document
        self.changed.set()

    async def until(self, condition: Callable[[D], bool]) -> D:
        """Wait for a document of which it is true."""
        while self.now is None or not condition(self.now):
            self.changed.clear()
            await self.changed.wait()
        return self.now


class RunningSwarm:
    """A swarm at work: it calls its tools as long as its limits, its bot and the policy let it."""

    def __init__(self, state: StateStore) -> None:
        self.swarm = Live(state.swarms, "live-1")
        self.bot = Live(state.bots, "live-ada")
        self.policy = Live(state.collection(POLICIES), "tools")
        self.calls: list[str] = []

    async def run(self) -> None:
        """Work and obey, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for live in (self.swarm, self.bot, self.policy):
                tasks.create_task(live.follow())
            tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self.swarm.until(lambda swarm: len(self.calls) < swarm.limits.max_tool_calls)
            await self.policy.until(lambda policy: "search" not in policy.forbidden_tools)
            bot = await self.bot.until(lambda bot: bot.model is not None)
            self.calls.append(f"search with {bot.model}")
            self.swarm.changed.set()


async def obeyed(what: str, condition: Callable[[], bool]) -> None:
    """Wait until the other server does as it was told a moment ago; no longer than the bound."""
    began = time.monotonic()
    async with asyncio.timeout(BOUND_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is the effect, wherever it comes from
            await asyncio.sleep(0.001)
    print(f"{what}: obeyed after {1000 * (time.monotonic() - began):.0f} ms")


def limited(calls: int) -> Callable[[Swarm], Swarm]:
    """A change of the swarm's limit."""
    return lambda swarm: msgspec.structs.replace(swarm, limits=SwarmLimits(max_tool_calls=calls))


async def change_everything(here: StateStore, running: RunningSwarm) -> None:
    """On one server, what the swarm on the other must obey."""
    await running.swarm.until(lambda _: len(running.calls) == 3)
    print("it stands still at its limit:", running.calls)

    await here.bots.update("live-ada", lambda bot: msgspec.structs.replace(bot, model="large"))
    await obeyed("another model", lambda: running.bot.now is not None and running.bot.now.model == "large")

    await here.swarms.update("live-1", limited(5))
    await obeyed("a higher limit", lambda: running.calls[3:] == ["search with large"] * 2)

    policies, policy = here.collection(POLICIES), running.policy
    await policies.put("tools", Policy(forbidden_tools=["search"]))
    await obeyed("a new policy", lambda: policy.now is not None and "search" in policy.now.forbidden_tools)

    await here.swarms.update("live-1", limited(7))
    await running.swarm.until(lambda swarm: swarm.limits.max_tool_calls == 7)
    assert len(running.calls) == 5, "the policy forbids what the limit allows"
    await policies.delete("tools")
    await policies.put("tools", Policy())
    await obeyed("a policy taken back", lambda: len(running.calls) == 7)


async def main() -> None:
    """Two servers: one changes, one obeys."""
    async with (
        holdfast.connect(kinds=[POLICIES], staleness_bound_seconds=BOUND_SECONDS) as here,
        holdfast.connect(kinds=[POLICIES], staleness_bound_seconds=BOUND_SECONDS) as there,
    ):
        await here.swarms.put("live-1", Swarm(goal="Find the leak", limits=SwarmLimits(max_tool_calls=3)))
        await here.bots.put("live-ada", Bot(name="Ada", model="small"))
        await here.collection(POLICIES).put("tools", Policy())
        running = RunningSwarm(there)
        work = asyncio.create_task(running.run())
        try:
            await change_everything(here, running)
        finally:
            work.cancel()
            await asyncio.wait([work])


if __name__ == "__main__":
    asyncio.run(main())
