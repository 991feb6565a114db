"""Worlds of runs that export: one with many below it, whose exports it merges while servers die."""
