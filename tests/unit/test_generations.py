"""Generations: the numbers below which cached entries are void."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.protocols import Coherence

GENERATIONS = {"all": 10, "kind:bot": 20, "kind:team": 5, "l2": 30}


@pytest.mark.parametrize(("kind", "floor"), [("bot", 20), ("team", 10), ("swarm", 10), ("l2", 10)])
def test_the_floor_of_a_kind_is_its_own_generation_or_everyones(kind: str, floor: int) -> None:
    """The higher of the two counts; another kind's generation voids nothing, nor does one that nodes of L2 drew."""
    assert Coherence(UUID(int=1), GENERATIONS).floor(kind) == floor


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["all", "kind:bot", "kind:team", "l2"]), st.integers(0, 2**62)))
def test_a_fill_of_now_counts_for_every_kind(generations: dict[str, int]) -> None:
    """The highest generation known, which a fill carries, is at least the floor of each kind, and is one of them."""
    coherence = Coherence(UUID(int=1), generations)
    assert all(coherence.highest >= coherence.floor(kind) for kind in ("bot", "team", "swarm"))
    assert coherence.highest in {0, *generations.values()}


@pytest.mark.parametrize(("kind", "floor"), [("bot", 20), ("team", 25), ("swarm", 10)])
def test_what_voids_only_l2_leaves_l1_alone(kind: str, floor: int) -> None:
    """The feed has told L1 of the change itself, which the relay could not fence key by key."""
    coherence = Coherence(UUID(int=1), {**GENERATIONS, "l2:bot": 15, "l2:team": 25})
    assert coherence.shared_floor(kind) == floor
    assert coherence.floor("team") == 10
