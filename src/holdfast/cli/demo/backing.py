"""The tiers' servers for a run of the demo: those that the settings name, else the embedded ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from holdfast.settings import Settings


@asynccontextmanager
async def backing_servers(settings: Settings, *, keep: bool, say: Callable[[str], None]) -> AsyncIterator[Settings]:
    """The settings with both servers named.

    Embedded servers of which none ran before are stopped at the end, and also where the start itself was
    interrupted: it goes on in its thread, and stopping waits for it. Of a set that others use, nothing is stopped.

    Args:
        settings: as loaded.
        keep: leave them running.
        say: told in words what is being waited for.

    Raises:
        ServerStartError: an embedded server did not start.
    """
    if not settings.embedded:
        yield settings
        return
    # Imported only here: with servers of your own, nothing embedded is even loaded.
    from holdfast.embedded import (  # noqa: PLC0415
        EmbeddedOptions,
        default_home,
        ensure_running,
        status,
        stop,
    )

    options = EmbeddedOptions(
        home=Path(settings.home) if settings.home else default_home(),
        replicas=settings.embedded_replicas,
        postgres_version=settings.embedded_postgres_version,
    )
    started_here = not any(server.pid for server in await status(options))
    try:
        running = await ensure_running(options, progress=say)
        started_here = len(running.started) == len(await status(options))
        replicas = settings.embedded_replicas if settings.journal_replicas is None else settings.journal_replicas
        yield msgspec.structs.replace(
            settings,
            postgres_url=running.postgres_url,
            redis_urls=running.redis_urls,
            journal_replicas=replicas,
            master_keys=settings.master_keys or running.master_keys,
        )
    finally:
        if started_here and not keep:
            await stop(options, progress=say)
