"""L1 against a simple model, over random sequences of what can happen to it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fix_l1 import TTL, Cache
from holdfast.entry import MISSING
from holdfast.keys import Key


class Model:
    """The rules once more, naively: every fence is remembered, and the entries are one list in order of use."""

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self.entries: dict[Key, tuple[Any, int, float]] = {}
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
        """An older but higher fence counts again when another one follows it: not needed, and never wrong."""
        again = any(at == key for at, _ in self.events[ticket:])
        return again and any(at == key and newer > version for at, newer in self.events)

    def hold(self, key: Key, value: Any, version: int, expires_at: float) -> None:
        """Put an entry last, and drop the first one if there are too many."""
        self.entries.pop(key, None)
        self.entries[key] = (value, version, expires_at)
        if len(self.entries) > self.entries_max:
            del self.entries[next(iter(self.entries))]
            self.evictions += 1

    def fence(self, key: Key, version: int) -> None:
        """Remember it, and drop any other version, as high as which it counts."""
        held = self.entries[key][1] if key in self.entries else version
        self.events.append((key, max(version, held)))
        if held != version:
            del self.entries[key]

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
        return value


keys = st.builds(Key, st.sampled_from(["bot", "team", "routine"]), st.sampled_from(["x", "y"]))
versions = st.integers(1, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), keys, versions, st.integers(0, 4), st.sampled_from([2.0, TTL, 2 * TTL])),
        st.tuples(st.just("missing"), keys, st.just(0), st.integers(0, 4), st.just(TTL)),
        st.tuples(st.just("peek"), keys),
        st.tuples(st.just("fence"), keys, versions),
        st.tuples(st.just("advance"), st.sampled_from([1.0, 150.0, 299.0])),
        st.tuples(st.just("flush")),
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
            model.hold(key, value, version, now + min(TTL, ttl_seconds))
    elif what == "peek":
        assert cache.peek(arguments[0]) == model.peek(arguments[0], now)
    elif what == "fence":
        cache.local.fence(*arguments)
        model.fence(*arguments)
    elif what == "flush":
        cache.local.flush()
        model.events.append((None, 0))
        model.entries.clear()
    else:
        cache.clock.advance(*arguments)


@settings(deadline=None, max_examples=300)
@given(entries_max=st.integers(2, 4), steps=steps)
def test_it_behaves_as_a_simple_model_over_any_sequence(entries_max: int, steps: list[tuple[Any, ...]]) -> None:
    """LRU over several kinds, TTL from insertion, tickets, fences and flushes, in every mixture."""
    cache, model = Cache(entries_max), Model(entries_max)
    for one in steps:
        cache.clock.advance(0.001)  # the order of use is told by the clock
        step(cache, model, *one)
        now = cache.clock.monotonic()
        for kind in ("bot", "team", "routine"):
            for key in (Key(kind, "x"), Key(kind, "y")):
                assert cache.held(key) == model.live(key, now)
        shelves = [cache.local.shelf(kind) for kind in ("bot", "team", "routine")]
        assert len(cache.local) == len(model.entries) <= entries_max
        assert cache.local.evictions == model.evictions
        assert (sum(shelf.hits for shelf in shelves), sum(shelf.misses for shelf in shelves)) == (
            model.hits,
            model.misses,
        )
