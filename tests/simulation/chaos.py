"""What goes wrong in a world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from holdfast.protocols import Target
from holdfast.testing import MemoryFeed
from simulation.scene import KEYS, TAGS, Scene

GAP_SECONDS = 0.8
EXCHANGE_SECONDS = 0.5
LOST_COMMITS_MAX = 4
OUTAGE_SECONDS = 2.0
"""The longest, after it is seen by all."""
SPARED_SECONDS = 1.5
Fault = Callable[[], Awaitable[None]]


class Chaos:
    """Faults at random, one after the other, until cancelled; `heal` ends what lasts."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._world = scene.world
        self._dumps = [scene.l2.dump()]
        self._files = scene.l3.copy()
        self._nodes = list(scene.l2.dump())
        self._faults: dict[str, list[Fault]] = {
            "feeds": [
                self._lose_hints,
                self._hold_a_feed,
                self._fail_a_feed,
                self._tidy_all,
                self._raise_generation,
                self._void,
            ],
            "relays": [self._hold_the_leader, self._fail_the_leader, self._silence_and_tidy, self._restart],
            "nodes": [self._silence_a_node, self._forget_a_node, self._restore_a_node, self._restore_a_node],
            "crashes": [self._crash, self._crash, self._restart, self._away],
            "files": [self._restore_l3, self._restore_unnoticed],
            "outages": [
                self._lose_l2,
                self._silence_l2,
                self._lose_l3,
                self._silence_l3,
                self._lose_both,
                self._spare_l2,
            ],
        }

    async def run(self, groups: Sequence[str]) -> None:
        """Do one fault after the other, of these groups."""
        faults = [fault for group in groups for fault in self._faults[group]]
        while faults:
            await self._world.pause(GAP_SECONDS)
            if self._world.chance(0.5):
                self._dumps.append(self._scene.l2.dump())
            if self._world.chance(0.3) and not self._scene.l3.away:
                self._files = self._scene.l3.copy()
            await self._world.random.choice(faults)()

    def heal(self) -> None:
        """End what lasts."""
        self._scene.l3.away = self._scene.l2.away = False
        self._scene.l2.silent.clear()
        for server in self._scene.servers:
            for feed in (server.hearing, server.relaying):
                feed.hints, feed.fail = True, False
                feed.release()
            server.l3.release()

    async def _lose_hints(self) -> None:
        feed = self._a_feed()
        feed.hints = False
        await self._world.pause(1.0)
        feed.hints = True

    async def _hold_a_feed(self) -> None:
        await self._hold(self._a_feed())

    async def _fail_a_feed(self) -> None:
        await self._fail(self._a_feed())

    async def _silence_and_tidy(self) -> None:
        """A node misses changes, and then nobody can tell it any more."""
        node = self._world.random.choice(self._nodes)
        self._scene.l2.silent.add(node)
        await self._world.pause(1.0)
        await self._tidy_all()
        self._scene.l2.silent.discard(node)

    async def _restore_unnoticed(self) -> None:
        """L3 goes back while some cannot read the feed, and it may be past what they know when they can again."""
        feeds = [feed for server in self._scene.servers for feed in (server.hearing, server.relaying)]
        deaf = [feed for feed in feeds if self._world.chance(0.5)]
        for feed in deaf:
            feed.hold()
        await self._world.pause(0.4)
        self._files = self._scene.l3.copy()
        await self._world.pause(0.4)
        await self._restore_l3()
        await self._world.pause(0.8)
        for feed in deaf:
            feed.release()

    async def _hold_the_leader(self) -> None:
        for feed in self._leaders():
            await self._hold(feed)

    async def _fail_the_leader(self) -> None:
        for feed in self._leaders():
            await self._fail(feed)

    async def _tidy_all(self) -> None:
        self._scene.l3.tidy(self._scene.l3.log.snapshot())

    async def _raise_generation(self) -> None:
        self._scene.l3.raise_generation(self._world.random.choice(("all", "kind:bot", "kind:note")))

    async def _void(self) -> None:
        """Somebody makes a key void that did not change, or a tag."""
        targets = [*map(Target.of, KEYS), *(Target(tag=str(number)) for number in range(TAGS))]
        self._scene.l3.void(self._world.random.choice(targets))

    async def _silence_a_node(self) -> None:
        node = self._world.random.choice(self._nodes)
        self._scene.l2.silent.add(node)
        await self._world.pause(1.5)
        self._scene.l2.silent.discard(node)

    async def _forget_a_node(self) -> None:
        self._scene.l2.forget(self._world.random.choice(self._nodes))

    async def _restore_a_node(self) -> None:
        self._scene.l2.restore(self._world.random.choice(self._dumps), self._world.random.choice(self._nodes))

    async def _crash(self) -> None:
        for lose in range(self._world.random.randint(0, LOST_COMMITS_MAX), -1, -1):
            try:
                self._scene.l3.crash(lose)
            except ValueError:  # so many cannot be lost now
                continue
            break
        self._scene.records.begin_life(self._scene.l3.log.rows)

    async def _restart(self) -> None:
        self._scene.l3.restart()

    async def _away(self) -> None:
        self._scene.l3.away = True
        await self._world.pause(0.6)
        self._scene.l3.away = False

    async def _restore_l3(self) -> None:
        """Stopped, its files exchanged and started: that takes longer than any lease lasts."""
        self._scene.l3.restart()  # it stops, and what is open ends with it
        self._scene.l3.away = True
        await asyncio.sleep(EXCHANGE_SECONDS)
        await self._world.pause(1.0)
        self._scene.l3.away = False
        self._scene.l3.restore(self._files)
        self._scene.records.begin_life(self._scene.l3.log.rows)

    async def _lose_l2(self) -> None:
        """Its nodes are gone: they refuse what is sent."""
        self._scene.l2.away = True
        await self._outage("L2")
        self._scene.l2.away = False

    async def _silence_l2(self) -> None:
        """Its nodes say nothing any more."""
        self._scene.l2.silent.update(self._nodes)
        await self._outage("L2")
        self._scene.l2.silent.clear()

    async def _lose_l3(self) -> None:
        self._scene.l3.away = True
        await self._outage("L3")
        self._scene.l3.away = False

    async def _silence_l3(self) -> None:
        """It stands still; then it goes on with what it was sent."""
        stopped = [way for server in self._scene.servers for way in (server.l3, server.hearing, server.relaying)]
        for way in stopped:
            way.hold()
        await self._outage("L3")
        for way in stopped:
            way.release()

    async def _lose_both(self) -> None:
        self._scene.l3.away = self._scene.l2.away = True
        await self._outage("L2", "L3")
        self._scene.l3.away = self._scene.l2.away = False

    async def _outage(self, *tiers: str) -> None:
        async with self._scene.health.outage(*tiers):
            await self._world.pause(OUTAGE_SECONDS)

    async def _spare_l2(self) -> None:
        """Somebody has a server pass L2 by, though it answers, for a while."""
        seconds = self._world.random.choice((SPARED_SECONDS, SPARED_SECONDS / 2))
        self._world.random.choice(self._scene.servers).flows.health.degrade(seconds, "somebody wants it")
        await self._world.pause(2 * SPARED_SECONDS)

    def _a_feed(self) -> MemoryFeed:
        return self._world.random.choice(self._scene.servers).hearing

    def _leaders(self) -> list[MemoryFeed]:
        return [server.relaying for server in self._scene.servers if server.relaying is self._scene.l3.leader]

    async def _hold(self, feed: MemoryFeed) -> None:
        feed.hold()
        await self._world.pause(1.5)
        feed.release()

    async def _fail(self, feed: MemoryFeed) -> None:
        feed.fail = True
        await self._world.pause(1.0)
        feed.fail = False
