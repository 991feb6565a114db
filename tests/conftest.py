"""Fixtures for all tests: real servers (`fix_servers`), tiers over them (`fix_tiers`)."""

pytest_plugins = ["fix_servers", "fix_single", "fix_tiers"]
