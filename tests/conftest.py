"""Fixtures for all tests.

Real servers (`fix_servers`), a single one (`fix_single`), two in a cluster (`fix_cluster`), and tiers over them
(`fix_tiers`).
"""

import os
from pathlib import Path

from hypothesis import settings

pytest_plugins = [
    "fix_feed",
    "fix_journal_bases",
    "fix_key_rows",
    "fix_cluster",
    "fix_recovery",
    "fix_reviews",
    "fix_run_index",
    "fix_scopes",
    "fix_servers",
    "fix_single",
    "fix_tiers",
    "holdfast.testing.fixtures",
]

MEMORY = Path("/dev/shm")  # noqa: S108 - whose folders below are pytest's, which are closed to others
MEMORY_BYTES_MIN = 6 * 1024**3


def _has_room(folder: Path) -> bool:
    """Whether what tests write can be there: a gate needs up to 2 GB of it at a time."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= MEMORY_BYTES_MIN and not found.f_flag & getattr(os, "ST_NOEXEC", 0)


# Each test has a database of its own, of 800 files. On a disk, making files takes the longer the more were removed in
# the last seconds (ext4: 20 times as long after a few dozen databases); in memory it does not.
if _has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The gate tries the same examples each time, and never fails for being slow on a busy machine.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
