"""The command line on a test's servers."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import Settings, cli
from holdfast.settings import PREFIX


def name_servers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands use the servers of a test."""
    for name in ("postgres_url", "key_prefix"):
        monkeypatch.setenv(PREFIX + name.upper(), getattr(settings, name))
    monkeypatch.setenv(PREFIX + "REDIS_URLS", ",".join(settings.redis_urls))


async def run_command(*words: str) -> int:
    """The exit status of a command."""
    return int(await asyncio.to_thread(_run, list(words)))


def _run(words: list[str]) -> int:
    return cli.app(words, backend="asyncio", result_action="return_value") or 0
