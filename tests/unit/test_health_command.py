"""`holdfast health` beside whose process others run."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from holdfast.cli.health import check_until_known
from holdfast.tiers.l3_guard import PostgresGuard

SILENCE_SECONDS = 0.2


async def test_a_process_that_stood_still_asks_again() -> None:
    """A check that ended late tells nothing: an L3 that has said nothing is not there.."""

    async def silent() -> Any:
        await asyncio.Event().wait()

    guard = PostgresGuard(silent, monotonic=time.monotonic, silence_seconds=SILENCE_SECONDS)
    asyncio.get_running_loop().call_later(SILENCE_SECONDS / 2, time.sleep, 2 * SILENCE_SECONDS)
    await check_until_known(guard)
    assert not guard.answers
