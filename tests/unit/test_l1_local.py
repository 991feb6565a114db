"""L1: what it holds, for how long, what it forgets first, and which fills it refuses."""

from __future__ import annotations

import pytest

from fix_l1 import KEY, TTL, Cache
from holdfast.entry import MISSING
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION
from holdfast.tiers.l1_local import FENCES_PER_ENTRY, LocalCache

OTHER, TEAM = Key("bot", "b2"), Key("team", "b1")


@pytest.fixture
def cache() -> Cache:
    """A cache with room for 100 entries."""
    return Cache()


def test_what_was_filled_is_answered_with_its_history(cache: Cache) -> None:
    """An entry has value, version and the time of its read from L3."""
    read_at = cache.clock.monotonic() - 5
    assert cache.fill(version=7, read_at=read_at)
    assert cache.peek() == (KEY, 7)
    entry = cache.local.shelf("bot").entry("b1")
    assert entry is not None
    assert (entry.value, entry.version, entry.read_at) == ((KEY, 7), 7, read_at)


def test_one_id_of_two_kinds_is_two_entries(cache: Cache) -> None:
    """Kinds that share a cache never see each other's documents."""
    cache.fill(KEY, 1)
    cache.fill(TEAM, 2)
    assert (cache.peek(KEY), cache.peek(TEAM), len(cache.local)) == ((KEY, 1), (TEAM, 2), 2)
    cache.local.fence(KEY, 9)
    assert (cache.peek(KEY), cache.peek(TEAM), len(cache.local)) == (None, (TEAM, 2), 1)


def test_a_missing_row_is_held_but_is_no_value(cache: Cache) -> None:
    """`entry` tells that there is no such row; `peek` answers documents only and counts a miss."""
    assert cache.missing()
    entry = cache.local.shelf("bot").entry("b1")
    assert entry is not None
    assert (entry.value, entry.version) == (MISSING, 0)
    assert cache.peek() is None
    assert (cache.local.shelf("bot").hits, cache.local.shelf("bot").misses) == (0, 1)


def test_each_peek_counts_once_and_entry_counts_nothing(cache: Cache) -> None:
    """A live value is a hit; nothing held, and an expired value, are misses."""
    shelf = cache.local.shelf("bot")
    cache.peek()
    cache.fill()
    cache.peek()
    cache.peek()
    shelf.entry("b1")
    shelf.entry("none")
    cache.clock.advance(TTL)
    cache.peek()
    assert (shelf.hits, shelf.misses) == (2, 2)


def test_a_hit_does_not_lengthen_an_entrys_life(cache: Cache) -> None:
    """TTL runs from insertion: an entry that is hit every second ends when it would have ended unhit."""
    cache.fill()
    for _ in range(int(TTL) - 1):
        cache.clock.advance(1)
        assert cache.peek() == (KEY, 1)
    cache.clock.advance(1)
    assert cache.peek() is None
    assert cache.held() is None


def test_a_fill_begins_a_new_life(cache: Cache) -> None:
    """Filled again, also at the same version, an entry has a whole TTL before it."""
    cache.fill()
    cache.clock.advance(TTL - 1)
    assert cache.fill()
    cache.clock.advance(TTL - 1)
    assert cache.peek() == (KEY, 1)


def test_the_shorter_ttl_of_the_two_tiers_counts(cache: Cache) -> None:
    """What has 10 seconds left in L2 has 10 in L1; what has an hour left there has L1's TTL."""
    cache.fill(KEY, ttl_seconds=10)
    cache.fill(OTHER, ttl_seconds=3600)
    cache.clock.advance(9)
    assert (cache.held(KEY), cache.held(OTHER)) == ((KEY, 1), (OTHER, 1))
    cache.clock.advance(1)
    assert (cache.held(KEY), cache.held(OTHER)) == (None, (OTHER, 1))
    cache.clock.advance(TTL - 10)
    assert cache.held(OTHER) is None


def test_a_fill_says_whether_it_is_held() -> None:
    """What has no time left in L2 is not held, and drives nothing out."""
    cache = Cache(entries_max=1)
    assert cache.fill(OTHER)
    assert not cache.fill(KEY, ttl_seconds=0)
    assert (cache.held(KEY), cache.held(OTHER)) == (None, (OTHER, 1))


def test_what_was_not_used_for_longest_goes_first() -> None:
    """A hit saves an older entry; the one that nobody asked for is evicted."""
    cache = Cache(entries_max=3)
    a, b, c, d = (Key("bot", name) for name in "abcd")
    cache.fill_all([a, b, c])
    assert cache.peek(a) == (a, 1)
    cache.fill(d)
    assert [cache.held(key) is not None for key in (a, b, c, d)] == [True, False, True, True]
    assert (len(cache.local), cache.local.evictions) == (3, 1)


def test_eviction_looks_over_all_kinds_of_a_cache() -> None:
    """The least recently used entry goes, whichever kind it is of, and a kind may take the whole cache."""
    cache = Cache(entries_max=3)
    keys = [Key("bot", "x"), Key("team", "x"), Key("routine", "x")]
    cache.fill_all(keys)
    cache.peek(keys[0])
    cache.clock.advance(1)
    cache.fill_all([Key("swarm", name) for name in "ab"])
    assert [cache.held(key) is not None for key in keys] == [True, False, False]
    cache.fill_all([Key("swarm", name) for name in "cde"])
    assert cache.held(keys[0]) is None
    assert (len(cache.local), cache.local.evictions) == (3, 5)


def test_looking_at_an_entry_does_not_save_it_and_filling_does() -> None:
    """`entry` renews nothing; a fill of what is held counts as a use and evicts nothing."""
    cache = Cache(entries_max=2)
    a, b, c = (Key("bot", name) for name in "abc")
    cache.fill_all([a, b, a])
    assert cache.local.evictions == 0
    assert cache.held(b) is not None
    cache.fill(c)
    assert [cache.held(key) is not None for key in (a, b, c)] == [True, False, True]


def test_a_shelf_stays_the_same_object(cache: Cache) -> None:
    """The bound `peek` that a collection keeps sees every later fill, also after a flush."""
    shelf = cache.local.shelf("bot")
    peek = shelf.peek
    cache.fill()
    cache.local.flush()
    assert peek("b1") is None
    cache.fill()
    assert peek("b1") == (KEY, 1)
    assert cache.local.shelf("bot") is shelf


def test_a_fence_drops_all_but_what_it_announced(cache: Cache) -> None:
    """Version 5 exists: 4 is the past, and 6 is newer or of an earlier life (V1), which only L3 can tell."""
    for version, stays in ((4, False), (5, True), (6, False)):
        key = Key("bot", f"at{version}")
        cache.fill(key, version)
        cache.local.fence(key, 5)
        assert (cache.held(key) is not None) is stays, version


def test_a_fence_drops_a_missing_row(cache: Cache) -> None:
    """A row exists, or existed meanwhile: "no such row" is the past."""
    cache.missing()
    cache.local.fence(KEY, 1)
    assert cache.held() is None


def test_a_read_overtaken_by_a_fence_fills_nothing(cache: Cache) -> None:
    """Rule R1: a reader that began before the fence may bring the value that the fence forbids."""
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 5)
    assert not cache.fill(version=4, ticket=ticket)
    assert cache.held() is None
    assert cache.local.refused_fills == 1


@pytest.mark.parametrize("version", [5, 6])
def test_an_overtaken_read_may_bring_what_the_fence_announced(cache: Cache, version: int) -> None:
    """Its value is as new as the fence says, so it is held."""
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 5)
    assert cache.fill(version=version, ticket=ticket)
    assert cache.held() == (KEY, version)


def test_a_read_begun_after_the_fence_may_bring_a_lower_version(cache: Cache) -> None:
    """Rule V1: a row inserted again may carry a lower number than its deletion drew; the read settles it."""
    cache.local.fence(KEY, 12)
    assert cache.fill(version=11, ticket=cache.local.ticket())
    assert cache.held() == (KEY, 11)


def test_a_fence_of_another_key_refuses_nothing(cache: Cache) -> None:
    """Fences are per key, and one id of another kind is another key."""
    ticket = cache.local.ticket()
    cache.local.fence(OTHER, 9)
    cache.local.fence(TEAM, 9)
    assert cache.fill(version=4, ticket=ticket)


def test_a_late_fence_of_an_old_version_does_not_lower_the_newer_one(cache: Cache) -> None:
    """Two writers' fences may arrive in another order than their commits."""
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 9)
    cache.local.fence(KEY, 3)
    assert not cache.fill(version=4, ticket=ticket)
    assert not cache.fill(version=8, ticket=ticket)


@pytest.mark.parametrize("version", [0, 1, 99])
def test_any_fence_since_its_ticket_refuses_a_missing_row(cache: Cache, version: int) -> None:
    """Rule R2: "no such row" has no version that could be compared."""
    ticket = cache.local.ticket()
    cache.local.fence(KEY, version)
    assert not cache.missing(ticket=ticket)
    assert cache.held() is None
    assert cache.missing(ticket=cache.local.ticket())


def test_nothing_is_filled_below_the_version_held(cache: Cache) -> None:
    """Of two reads that ended in the wrong order the newer version stays."""
    cache.fill(version=7)
    assert not cache.fill(version=6)
    assert cache.held() == (KEY, 7)
    assert cache.fill(version=8)
    assert cache.held() == (KEY, 8)


def test_a_missing_row_replaces_a_value_only_if_it_was_read_later(cache: Cache) -> None:
    """Reads end in any order: "no such row" wins over what was read before it and loses to what was read after."""
    cache.clock.advance(10)
    now = cache.clock.monotonic()
    cache.fill(version=5, read_at=now)
    assert not cache.missing(read_at=now - 1)
    assert cache.held() == (KEY, 5)
    assert cache.missing(read_at=now + 1)
    assert cache.held() is MISSING


def test_a_value_replaces_a_missing_row_only_if_it_was_read_later(cache: Cache) -> None:
    """A slow read of the row that was deleted meanwhile must not bring it back after this server saw it gone."""
    cache.clock.advance(10)
    now = cache.clock.monotonic()
    cache.missing(read_at=now)
    assert not cache.fill(version=5, read_at=now - 1)
    assert cache.held() is MISSING
    assert cache.fill(version=6, read_at=now + 1)
    assert cache.held() == (KEY, 6)


def test_a_flush_forgets_everything_and_refuses_reads_begun_before_it(cache: Cache) -> None:
    """After another incarnation of L3 was noticed, nothing read under the old one may come in."""
    ticket = cache.local.ticket()
    cache.fill(KEY)
    cache.fill(TEAM)
    cache.local.flush()
    assert (len(cache.local), cache.held(KEY), cache.held(TEAM)) == (0, None, None)
    assert not cache.fill(version=99, ticket=ticket)
    assert not cache.missing(ticket=ticket)
    assert cache.fill(ticket=cache.local.ticket())


def test_a_fence_that_was_forgotten_still_refuses() -> None:
    """The fence map is bounded: what began before its oldest fence was pruned is refused for every key."""
    cache = Cache(entries_max=2)
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 9)
    for number in range(FENCES_PER_ENTRY * 2 - 1):
        cache.local.fence(Key("bot", f"other{number}"), 1)
    assert cache.fill(OTHER, ticket=ticket), "nothing was pruned yet"
    cache.local.fence(Key("bot", "one more"), 1)
    assert not cache.fill(KEY, 1, ticket=ticket)
    assert not cache.fill(TEAM, 1, ticket=ticket)
    assert cache.fill(KEY, 1, ticket=ticket + 1), "it began after the fence that was pruned"


def test_a_key_fenced_again_is_young() -> None:
    """Pruned is the fence that arrived first, not the key fenced first: only reads that may be stale are refused."""
    cache = Cache(entries_max=1)
    cache.local.fence(KEY, 1)
    for number in range(FENCES_PER_ENTRY - 1):
        cache.local.fence(Key("bot", f"other{number}"), 1)
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 2)
    cache.local.fence(Key("bot", "one more"), 1)
    assert not cache.fill(KEY, 1, ticket=ticket)
    assert cache.fill(TEAM, 1, ticket=ticket)


def test_the_fence_map_is_bounded() -> None:
    """However many keys are fenced, a fixed number of fences for each entry is kept, the youngest ones."""
    cache = Cache(entries_max=3)
    for number in range(1000):
        cache.local.fence(Key("bot", f"b{number}"), 1)
        cache.local.fence(KEY, number)
    assert len(cache.local._fences) == 3 * FENCES_PER_ENTRY
    assert KEY in cache.local._fences


def test_a_put_that_drew_its_number_early_hides_the_earlier_life(cache: Cache) -> None:
    """V1: an upsert that waited for a delete inserts with a lower number than the row it replaced."""
    ticket = cache.local.ticket()
    cache.fill(KEY, version=4)
    cache.local.fence(KEY, 3)
    assert not cache.fill(KEY, version=3, ticket=ticket)
    assert cache.held() is None
    assert cache.fill(KEY, version=3)


def test_a_fence_of_any_version_gives_way_to_the_next(cache: Cache) -> None:
    """After an unknown outcome was cleared by a write, that write's value is held again."""
    cache.local.fence(KEY, ANY_VERSION)
    ticket = cache.local.ticket()
    cache.local.fence(KEY, 7)
    assert cache.fill(KEY, version=7, ticket=ticket)


def test_the_entries_of_a_tag_are_forgotten_and_fills_of_before_refused() -> None:
    """On every shelf; what has other tags, or none, stays. None means whatever has any."""
    cache = Cache()
    keys = [Key("swarm", "s1"), Key("swarm", "s2"), Key("bot", "b1"), Key("plan", "p1")]
    for key, tags in zip(keys, [("x", "y"), ("y",), (), ("x",)], strict=True):
        cache.fill(key, tags=tags)
    ticket = cache.local.ticket()
    cache.local.flush_tags({"x", "z"})
    assert [cache.held(key) is not None for key in keys] == [False, True, True, False]
    assert len(cache.local) == 2
    assert not cache.fill(keys[0], ticket=ticket)
    assert cache.fill(keys[0])
    cache.local.flush_tags(None)
    assert [cache.held(key) is not None for key in keys] == [True, False, True, False]


def test_a_write_is_contested_by_a_fence_that_came_meanwhile() -> None:
    """Of two writes under way the version does not say which came last: neither may fill after the other was told."""
    cache = LocalCache(entries_max=10, ttl_seconds=60.0, clock=lambda: 0.0)
    ticket, key = cache.ticket(), Key("bot", "b1")
    assert not cache.is_contested(key, ticket)
    cache.fence(key, 47)
    assert cache.is_contested(key, ticket)
    assert not cache.is_contested(key, cache.ticket())
    ticket = cache.ticket()
    cache.flush()
    assert cache.is_contested(key, ticket)
