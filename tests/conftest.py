"""Fixtures for all tests: real servers (`fix_servers`), a single one (`fix_single`), tiers over them (`fix_tiers`)."""

from hypothesis import settings

pytest_plugins = ["fix_servers", "fix_single", "fix_tiers"]

# The gate tries the same examples each time, and never fails for being slow on a busy machine.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
