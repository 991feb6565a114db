"""L1 against a simple model, over random sequences of what can happen to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fix_l1 import TTL, Cache
from holdfast.entry import MISSING
from holdfast.keys import Key
from holdfast.tiers.l1_local import FENCES_PER_ENTRY


class Model:
    """The rules once more, naively: every fence is remembered, and the entries are one list in order of use."""

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self.fences_max = entries_max * FENCES_PER_ENTRY
        self.entries: dict[Key, tuple[Any, int, float]] = {}
        self.used: dict[Key, float] = {}
        self.events: list[tuple[Key | None, int]] = []
        self.hits = self.misses = self.evictions = 0

    def must_refuse(self, key: Key, value: Any, version: int, ticket: int) -> bool:
        """A newer fence since the ticket, any fence for a missing row, a flush, or a newer version held."""
        since = self.events[ticket:]
        fenced = any(at == key and (value is MISSING or newer > version) for at, newer in since)
        flushed = any(at is None for at, _ in since)
        older = value is not MISSING and key in self.entries and self.entries[key][1] > version
        return fenced or flushed or older

    def may_refuse(self, key: Key, version: int, ticket: int) -> bool:
        """Not needed, and never wrong.

        An older but higher fence counts again when another one follows it; and where there were too many fences the
        oldest are forgotten, with all that began before them.
        """
        again = any(at == key for at, _ in self.events[ticket:])
        crowded = len({at for at, _ in self.events}) > self.fences_max
        return crowded or (again and any(at == key and newer > version for at, newer in self.events))

    def hold(self, key: Key, value: Any, version: int, expires_at: float, now: float) -> None:
        """Put an entry last, and drop the first one if there are too many."""
        self.entries.pop(key, None)
        self.entries[key] = (value, version, expires_at)
        self.used[key] = now
        if len(self.entries) > self.entries_max:
            del self.entries[next(iter(self.entries))]
            self.evictions += 1

    def fence(self, key: Key, version: int) -> None:
        """Remember it, and drop any other version, as high as which it counts."""
        held = self.entries[key][1] if key in self.entries else version
        self.events.append((key, max(version, held)))
        if held != version:
            del self.entries[key]

    def forget(self, gone: Callable[[Key], bool]) -> None:
        """Drop entries; no read begun before may fill."""
        self.events.append((None, 0))
        self.entries = {key: entry for key, entry in self.entries.items() if not gone(key)}

    def live(self, key: Key, now: float) -> Any:
        """The value that counts, or None."""
        value, _, expires_at = self.entries.get(key, (None, 0, 0.0))
        return value if expires_at > now else None

    def peek(self, key: Key, now: float) -> Any:
        """The value of a hit, which is then the last to go."""
        value = self.live(key, now)
        if value is None or value is MISSING:
            self.misses += 1
            return None
        self.hits += 1
        self.entries[key] = self.entries.pop(key)
        self.used[key] = now
        return value


KINDS = ("bot", "team", "routine")
IDS = tuple("abcdefg")
keys = st.builds(Key, st.sampled_from(KINDS), st.sampled_from(IDS))
versions = st.integers(1, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), keys, versions, st.integers(0, 4), st.sampled_from([2.0, TTL, 2 * TTL])),
        st.tuples(st.just("missing"), keys, st.just(0), st.integers(0, 4), st.just(TTL)),
        st.tuples(st.just("peek"), keys),
        st.tuples(st.just("fence"), keys, versions),
        st.tuples(st.just("advance"), st.sampled_from([1.0, 150.0, 299.0])),
        st.tuples(st.just("flush")),
        st.tuples(st.just("flush_kind"), st.sampled_from(KINDS)),
        st.tuples(st.just("forget_since"), st.sampled_from([0.0, 1.0, 200.0])),
        st.tuples(st.just("fence_all"), st.integers(1, len(KINDS) * len(IDS)), versions),
    ),
    max_size=60,
)


def step(cache: Cache, model: Model, what: str, *arguments: Any) -> None:
    """Do one thing to both, and compare what they say."""
    now = cache.clock.monotonic()
    if what in {"fill", "missing"}:
        key, version, events_ago, ttl_seconds = arguments
        ticket = max(0, len(model.events) - events_ago)
        value = MISSING if what == "missing" else (key, version, ticket)
        admitted = cache.fill(key, version, value, ticket=ticket, ttl_seconds=ttl_seconds)
        if model.must_refuse(key, value, version, ticket):
            assert not admitted
        elif not model.may_refuse(key, version, ticket):
            assert admitted
        if admitted:
            model.hold(key, value, version, now + min(TTL, ttl_seconds), now)
    elif what == "peek":
        assert cache.peek(arguments[0]) == model.peek(arguments[0], now)
    elif what == "fence":
        cache.local.fence(*arguments)
        model.fence(*arguments)
    elif what == "advance":
        cache.clock.advance(*arguments)
    else:
        forget(cache, model, what, *arguments)


def forget(cache: Cache, model: Model, what: str, *arguments: Any) -> None:
    """Do what concerns many keys."""
    now = cache.clock.monotonic()
    if what == "flush":
        cache.local.flush()
        model.forget(lambda key: True)
    elif what == "flush_kind":
        cache.local.flush_kind(*arguments)
        model.forget(lambda key: key.kind == arguments[0])
    elif what == "forget_since":
        cache.local.forget_since(now - arguments[0])
        model.forget(lambda key: model.used[key] >= now - arguments[0])
    else:
        for key in [Key(kind, name) for kind in KINDS for name in IDS][: arguments[0]]:
            cache.local.fence(key, arguments[1])
            model.fence(key, arguments[1])


@example(  # a full map of fences that goes on forgetting after a flush
    entries_max=2,
    steps=[
        ("fence_all", 21, 1),
        ("flush_kind", "bot"),
        ("fence", Key("team", "a"), 3),
        ("fill", Key("bot", "b"), 2, 2, TTL),
    ],
)
@settings(deadline=None, max_examples=300)
@given(entries_max=st.integers(2, 4), steps=steps)
def test_it_behaves_as_a_simple_model_over_any_sequence(entries_max: int, steps: list[tuple[Any, ...]]) -> None:
    """LRU over several kinds, TTL from insertion, tickets, fences and flushes, in every mixture."""
    cache, model = Cache(entries_max), Model(entries_max)
    for one in steps:
        cache.clock.advance(0.001)  # the order of use is told by the clock
        step(cache, model, *one)
        now = cache.clock.monotonic()
        for kind in KINDS:
            for key in (Key(kind, name) for name in IDS):
                assert cache.held(key) == model.live(key, now)
        shelves = [cache.local.shelf(kind) for kind in KINDS]
        assert len(cache.local) == len(model.entries) <= entries_max
        assert cache.local.evictions == model.evictions
        assert (sum(shelf.hits for shelf in shelves), sum(shelf.misses for shelf in shelves)) == (
            model.hits,
            model.misses,
        )
