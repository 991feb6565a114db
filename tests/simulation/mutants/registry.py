"""The registry of mutants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Mutation = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutation] = {}


def mutant(rules: str) -> Callable[[Mutation], Mutation]:
    """Register a mutation under its rules and its name."""

    def register(mutation: Mutation) -> Mutation:
        MUTANTS[f"{rules}-{mutation.__name__}"] = mutation
        return mutation

    return register
