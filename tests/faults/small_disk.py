"""A disk so small that it can be filled, for L3's tables."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from faults.matrix import L3, Ground, execute

DISK_BYTES = 32 << 20


class Disk:
    """A small disk, in memory, on which L3 keeps all of Holdfast's tables.

    Args:
        path: where it is mounted; a folder that is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def tables(self) -> Path:
        """The folder of the tablespace."""
        return self.path / "tables"

    def mount(self, files: Path) -> None:
        """Mount it; its folder belongs to the owner of L3's files.

        Raises:
            OSError: it may not be mounted here.
        """
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(self.path)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"no tmpfs may be mounted here: {done.stderr.strip()}")
        owner = files.stat()
        self.tables.mkdir(mode=0o700)
        os.chown(self.tables, owner.st_uid, owner.st_gid)

    def unmount(self) -> None:
        """Remove it, with what it holds; L3 may still have files open."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def fill(self) -> None:
        """Leave no room."""
        with suppress(OSError), (self.path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))

    def empty(self) -> None:
        """Leave room again."""
        (self.path / "filler").unlink(missing_ok=True)


DISK: Final = Disk(Path(tempfile.gettempdir()) / f"small-disk-{os.getpid()}")


@asynccontextmanager
async def on_small_disk(ground: Ground) -> AsyncIterator[None]:
    """Tables made from now on are on a small disk; the test is skipped where there can be none."""
    connection = await asyncpg.connect(ground.controls.url(L3))
    files = Path(await connection.fetchval("SHOW data_directory"))
    await connection.close()
    DISK.path.mkdir()
    try:
        try:
            await asyncio.to_thread(DISK.mount, files)
        except OSError as fault:
            pytest.skip(str(fault))
        try:
            await execute(
                ground.controls,
                f"CREATE TABLESPACE small LOCATION '{DISK.tables}'",
                "ALTER DATABASE holdfast SET default_tablespace = small",
            )
            yield
        finally:
            await execute(
                ground.controls,
                "ALTER DATABASE holdfast RESET default_tablespace",
                "DROP SCHEMA IF EXISTS holdfast CASCADE",
                "CHECKPOINT",
                "DROP TABLESPACE IF EXISTS small",
            )
            DISK.unmount()
    finally:
        DISK.path.rmdir()


@asynccontextmanager
async def l3_disk_full(_ground: Ground) -> AsyncIterator[None]:
    """The disk of Holdfast's tables is full."""
    await asyncio.to_thread(DISK.fill)
    try:
        yield
    finally:
        DISK.empty()
