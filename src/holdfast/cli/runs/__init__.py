"""`holdfast runs`: the runs of routines, from a shell."""

from holdfast.cli.runs.command import runs

__all__ = ["runs"]
