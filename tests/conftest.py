"""Fixtures for all tests.

Real servers (`fix_servers`), a single one (`fix_single`), two in a cluster (`fix_cluster`), and tiers over them
(`fix_tiers`).
"""

import os
import tempfile

from hypothesis import settings

from fix_memory import MEMORY, has_room

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

# Each test has a database of its own, of 800 files. On a disk, making files takes the longer the more were removed in
# the last seconds (ext4: eight times as long after fifty databases); in memory it does not.
if has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_report_header() -> str:
    """Where tests write."""
    return f"tests write below {os.environ.get('PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir())}"


# The gate tries the same examples each time, and never fails for being slow on a busy machine.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
