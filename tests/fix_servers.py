"""Real servers for tests: one running set for each test session, shared by the workers of pytest-xdist.

Load it with ``pytest_plugins = ["fix_servers"]``.

* ``servers``: the running set, a `holdfast.embedded.servers.Running`.
* ``postgres_url``: a database of its own for each test, with the ``vector`` extension; a copy of
  ``postgres_template``, which a test module may override.
* ``redis_prefix``: a prefix of its own for each test's keys, as text.
* ``stopped_after``: for tests of the servers themselves, which need a home of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from holdfast.embedded.servers import EmbeddedOptions, Running, ensure_running, stop

T = TypeVar("T")

HOME = "servers"


@pytest.fixture(scope="session")
def server_options(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> EmbeddedOptions:
    """What this session runs; the same home in every worker."""
    base = tmp_path_factory.getbasetemp()
    return EmbeddedOptions((base.parent if hasattr(request.config, "workerinput") else base) / HOME)


@pytest.fixture(scope="session")
def servers(server_options: EmbeddedOptions) -> Running:
    """The running set of this session: started by the first who asks, stopped when the session ends."""
    return _run(_unsynchronised(server_options))


@pytest.fixture(scope="session")
def postgres_template() -> str:
    """The database that `postgres_url` copies; nobody may be connected to it meanwhile."""
    return "template1"


@pytest.fixture
async def postgres_url(servers: Running, postgres_template: str) -> AsyncIterator[str]:
    """The URL of a new database, dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(servers.postgres_url, f'CREATE DATABASE {name} TEMPLATE "{postgres_template}" STRATEGY FILE_COPY')
    yield servers.postgres_url.replace("/holdfast?", f"/{name}?")
    await _execute(servers.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_prefix() -> str:
    """A prefix for the keys of one test."""
    return f"test-{uuid.uuid4().hex}:"


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None]:
    """Stop the session's servers when all workers are done; keep their logs if a test failed."""
    yield
    if hasattr(session.config, "workerinput"):
        return
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    if factory._basetemp is None:
        return
    home: Path = factory.getbasetemp() / HOME
    _run(stop(EmbeddedOptions(home)))
    if exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def stopped_after(options: EmbeddedOptions) -> AsyncIterator[EmbeddedOptions]:
    """Use a home of one's own; its servers are stopped and, if all went well, its files removed."""
    try:
        yield options
    finally:
        await stop(options)
    shutil.rmtree(options.home, ignore_errors=True)


async def _unsynchronised(options: EmbeddedOptions) -> Running:
    """They leave writing to disk to the kernel: tests kill processes, never machines, and drop many a database."""
    running = await ensure_running(options)
    await _execute(running.postgres_url, "ALTER SYSTEM SET fsync = off")
    await _execute(running.postgres_url, "SELECT pg_reload_conf()")
    return running


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: a session fixture may be set up while a test's loop runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
