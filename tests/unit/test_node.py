"""The composition root: which caches there are, and what is refused before anything connects."""

from __future__ import annotations

import inspect
from typing import Unpack, get_type_hints

import pytest

import holdfast
from holdfast import Caching, Document, Kind, Settings, SettingsError
from holdfast.arguments import SettingArguments
from holdfast.kinds import register
from holdfast.testing import ManualClock
from holdfast.tiers.l1_caches import build_caches


class Plan(Document, frozen=True, kw_only=True):
    """An own document."""

    title: str


def test_the_seeds_three_caches_are_shared_as_it_says() -> None:
    """Bots, teams and routines share one cache; swarms and run snapshots have theirs; an own kind has its own."""
    caches = build_caches(Settings(), register([Kind("plan", Plan)]), ManualClock())
    assert caches["bot"] is caches["team"] is caches["routine"]
    assert len({id(cache) for cache in caches.values()}) == 4


def test_an_own_kind_may_share() -> None:
    """An own kind that names a cache of the seed shares it."""
    caches = build_caches(Settings(), register([Kind("plan", Plan, caching=Caching(cache="config"))]), ManualClock())
    assert caches["plan"] is caches["bot"]


def test_an_unknown_cache_is_refused() -> None:
    """A kind that names a cache that does not exist is told which there are."""
    with pytest.raises(SettingsError, match=r"kind plan: there is no L1 cache fast.*config.*run.*swarm"):
        build_caches(Settings(), register([Kind("plan", Plan, caching=Caching(cache="fast"))]), ManualClock())


def test_a_ttl_below_a_fences_life_is_refused() -> None:
    """An entry that may expire before a fence would is refused: late fills could slip in behind it."""
    kind = Kind("plan", Plan, caching=Caching(l2_ttl_seconds=59))
    with pytest.raises(SettingsError, match="l2_ttl_seconds 59 is below l2_fence_lifetime_seconds 60"):
        holdfast.connect(Settings(), kinds=[kind])


def test_settings_and_arguments_exclude_each_other() -> None:
    """`connect` takes all settings or single ones, not a mixture whose winner nobody knows."""
    with pytest.raises(SettingsError, match="not both"):
        holdfast.connect(Settings(), key_prefix="x:")


def test_one_server_alone_cannot_be_named() -> None:
    """Naming PostgreSQL without Redis is refused: the embedded cluster would be shared with nobody."""
    with pytest.raises(SettingsError, match="postgres_url is set and redis_urls is not"):
        holdfast.connect(postgres_url="postgresql://localhost/x")


def test_connect_names_each_setting_and_its_type() -> None:
    """What an editor offers as an argument is a setting, and every setting is offered, with the same type."""
    assert get_type_hints(SettingArguments) == get_type_hints(Settings)
    assert not SettingArguments.__required_keys__
    assert get_type_hints(holdfast.connect)["arguments"] == Unpack[SettingArguments]
    own = inspect.signature(holdfast.connect).parameters.keys() - {"arguments"}
    assert own.isdisjoint(SettingArguments.__annotations__)
