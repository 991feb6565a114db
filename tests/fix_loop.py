"""The event loop of a test."""

from __future__ import annotations

import asyncio


async def settle() -> None:
    """Let everything run that can, without any time passing."""
    for _ in range(10):
        await asyncio.sleep(0)
