"""Fixtures for all tests.

Real servers (`fix_servers`), a single one (`fix_single`), two in a cluster (`fix_cluster`), and tiers over them
(`fix_tiers`).
"""

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

# The gate tries the same examples each time, and never fails for being slow on a busy machine.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
