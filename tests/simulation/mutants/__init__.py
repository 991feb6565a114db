"""Each rule's mechanism switched off, so that a test can show which promise it keeps."""

from simulation.mutants import exports, feed, local, owners, recovery, runs, scopes, shared, write_behind
from simulation.mutants.registry import MUTANTS

__all__ = ["MUTANTS", "exports", "feed", "local", "owners", "recovery", "runs", "scopes", "shared", "write_behind"]
