"""Looking for a seed whose world breaks a promise."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Protocol

from holdfast.testing.simulation import World, simulate


class RunsWorld(Protocol):
    """One world; returns what it broke, in words."""

    def __call__(self, world: World, /, *, theme: str | None) -> Awaitable[list[str]]: ...


def first_faulty_of(run_world: RunsWorld, seeds: range, theme: str | None = None) -> tuple[int, list[str]] | None:
    """The first seed whose world breaks a promise, and how."""
    for seed in seeds:
        if faults := simulate(seed, partial(run_world, theme=theme)):
            return seed, faults
    return None
