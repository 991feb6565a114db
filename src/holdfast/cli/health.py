"""`holdfast health`: whether L2 and L3 answer, and the mode that follows from it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from rich.console import Console

from holdfast.adapters import postgres_guard, redis_connection
from holdfast.cli.showing import line, show
from holdfast.clock import SystemClock
from holdfast.node import with_servers
from holdfast.protocols.guards import StorageGuard, TierHealth, TierState
from holdfast.recovery.breaker import Circuit
from holdfast.recovery.modes import Mode, Tiers, mode_of
from holdfast.settings import load_settings
from holdfast.tiers.l2_guard import RedisGuard

COLUMNS = ("tier", "state", "cut off", "fault")
CHECKS_MAX: Final = 5
"""So often at most L3 is asked by a process that keeps standing still."""


class Asked(msgspec.Struct, frozen=True):
    """What was found out.

    Attributes:
        mode: that a server works in which finds the same.
    """

    mode: Mode
    l2: TierHealth
    l3: TierHealth


class _Tier(msgspec.Struct, frozen=True):
    name: str
    health: TierHealth


async def health(*, json: bool = False) -> int:
    """Ask Redis and PostgreSQL for a sign of life, and show the mode that servers work in which find the same.

    The exit status is 0 if all of both answers, else 1. How a running server is, and for how long, only itself can
    tell: `state.health()`.

    On a terminal it is a table, otherwise one JSON object.

    Parameters
    ----------
    json
        One JSON object also on a terminal.
    """
    logging.getLogger("holdfast").addHandler(logging.NullHandler())  # what guards say is of a server that serves
    complain, output = Console(stderr=True), Console()
    settings = await with_servers(load_settings(environment=os.environ), complain.print)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        connection, l3 = redis_connection(settings, clock), postgres_guard(settings, clock)
        stack.push_async_callback(connection.close)
        stack.push_async_callback(l3.close)
        l2 = RedisGuard(connection)
        await asyncio.gather(l2.check(), check_until_known(l3))
        there = Tiers(l2=l2.answers, l3=l3.answers, buffers=True)
        asked = Asked(mode_of(there), l2.health(), l3.health())
    if json or not output.is_terminal:
        line(output, msgspec.json.encode(asked).decode())
    else:
        line(output, f"mode: {asked.mode}")
        show([_Tier("L2", asked.l2), _Tier("L3", asked.l3)], COLUMNS, _cells, "")
    return 0 if asked.l2.state is asked.l3.state is TierState.THERE else 1


async def check_until_known(l3: StorageGuard) -> None:
    """Have it asked until it is known; a check of a process that stood still meanwhile says nothing."""
    for _ in range(CHECKS_MAX):
        await l3.check()
        if not (l3.in_doubt and l3.answers):
            return


def _cells(tier: _Tier) -> Sequence[str]:
    cut_off = [name for name, circuit in tier.health.circuits.items() if circuit is not Circuit.CLOSED]
    return tier.name, tier.health.state, ", ".join(cut_off), tier.health.fault or ""
