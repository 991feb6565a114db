"""Worlds of runs: one with many below it, which servers run, lose and resume."""
