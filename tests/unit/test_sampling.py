"""Which answers are drawn, and how many."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import msgspec
import pytest

from holdfast import Bot
from holdfast.entry import MISSING, Tier
from holdfast.invalidation.consistency import CONFIDENCE_95, Sample, TierConsistency, differs
from holdfast.invalidation.sampling import AnswerSampler, ShelfSampler
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.testing import ManualClock
from holdfast.tiers.l1_local import LocalCache, LocalEntry, Shelf

KEY = Key("bot", "b1")
ROW = Row(5, 1, 1, b'{"name":"Ada"}')


class Opaque(msgspec.Struct, frozen=True, eq=False):
    """A user's class whose instances do not compare."""

    word: str = ""


class Note(Bot, frozen=True, kw_only=True):
    """A document that holds one."""

    opaque: Opaque = Opaque()


def shelf_of(clock: ManualClock, *identifiers: str) -> Shelf:
    """A shelf that holds documents for these ids."""
    cache = LocalCache(entries_max=10_000, ttl_seconds=1e6, clock=clock.monotonic)
    for identifier in identifiers:
        cache.fill(Key("bot", identifier), Bot(), 1, ticket=cache.ticket(), read_at=0.0, ttl_seconds=1e6)
    return cache.shelf("bot")


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_the_share_of_l2s_answers(share: float) -> None:
    """It is drawn, give or take chance: within 4 standard deviations."""
    sampler, answers = AnswerSampler(share, room=1_000_000, random_=random.Random(1)), 200_000
    for _ in range(answers):
        sampler.answered(KEY, ROW, 1.0)
    drawn = sampler.take()
    assert abs(len(drawn) - answers * share) <= 4 * (answers * share * (1 - share)) ** 0.5
    assert {(each.key, each.tier, each.version, each.read_at) for each in drawn} == {(KEY, Tier.L2, 5, 1.0)}
    assert sampler.take() == []


def test_a_share_of_zero_draws_nothing() -> None:
    """Of either tier."""
    sampler = AnswerSampler(0.0, room=10, random_=random.Random(1))
    for _ in range(10_000):
        sampler.answered(KEY, ROW, 1.0)
    assert sampler.take() == []
    shelf = shelf_of(ManualClock(), "b1")
    local = ShelfSampler({"bot": shelf}, 0.0, room=10, random_=random.Random(1))
    for _ in range(10_000):
        shelf.peek("b1")
    assert local.take(1.0) == []


def test_what_is_drawn_of_l2_is_bounded() -> None:
    """However many answers come before they are verified, the last ones are kept."""
    sampler = AnswerSampler(1.0, room=3, random_=random.Random(1))
    for version in range(100):
        sampler.answered(KEY, msgspec.structs.replace(ROW, version=version), 1.0)
    assert [each.version for each in sampler.take()] == [97, 98, 99]


def test_draws_of_l1_follow_its_hits() -> None:
    """The share of them, among the entries that were used; those that were not are left alone."""
    clock = ManualClock()
    shelf = shelf_of(clock, *(f"b{number}" for number in range(100)))
    sampler = ShelfSampler({"bot": shelf}, 0.1, room=1000, random_=random.Random(1))
    clock.advance(1.0)
    sampler.take(clock.monotonic())
    drawn: Counter[str] = Counter()
    for _ in range(500):
        clock.advance(1.0)
        for number in range(10):
            for _ in range(4):
                shelf.peek(f"b{number}")
        drawn.update(sample.key.id for sample in sampler.take(clock.monotonic()))
        clock.advance(1.0)
    assert sum(drawn.values()) == 500 * 40 * 0.1
    assert set(drawn) == {f"b{number}" for number in range(10)}
    assert min(drawn.values()) > 120  # each has 200 coming; no entry is a blind spot, wherever it stands in the order


def test_a_share_of_a_hit_is_left_to_chance() -> None:
    """So that few hits are verified at their share too, and not never."""
    clock = ManualClock()
    shelf = shelf_of(clock, "b1")
    sampler = ShelfSampler({"bot": shelf}, 0.05, room=10, random_=random.Random(1))
    drawn = 0
    for _ in range(2000):
        shelf.peek("b1")
        drawn += len(sampler.take(clock.monotonic()))
    assert 60 < drawn < 140


def test_the_draws_of_a_shelf_are_bounded() -> None:
    """A million hits are no reason for a thousand checks."""
    clock = ManualClock()
    shelf = shelf_of(clock, *(f"b{number}" for number in range(100)))
    sampler = ShelfSampler({"bot": shelf}, 1.0, room=20, random_=random.Random(1))
    for number in range(100):
        shelf.peek(f"b{number}")
    drawn = sampler.take(clock.monotonic())
    assert len({sample.key for sample in drawn}) == 20


def local(value: object, version: int = 5) -> Sample:
    """An answer of L1."""
    return Sample(KEY, Tier.L1, version, LocalEntry(value, version, 0.0, 1e9, 0.0), 0.0)


def shared(row: Row) -> Sample:
    """An answer of L2."""
    return Sample(KEY, Tier.L2, row.version, row, 0.0)


def test_what_differs() -> None:
    """Another version, higher or lower; a row that is gone or there; other contents at the same version."""
    ada = Bot(name="Ada")

    def decode(_key: Key, _row: Row) -> Bot:
        return ada

    for sample in (local(ada), shared(ROW)):
        assert not differs(sample, ROW, decode)
        assert not differs(sample, msgspec.structs.replace(ROW, body=b""), decode)
        assert differs(sample, msgspec.structs.replace(ROW, version=4), decode)
        assert differs(sample, msgspec.structs.replace(ROW, version=6, body=b""), decode)
        assert differs(sample, None, decode)
    assert not differs(local(MISSING, 0), None, decode)
    assert differs(local(MISSING, 0), ROW, decode)
    assert differs(local(Bot(name="Eve")), ROW, decode)
    assert differs(shared(ROW), msgspec.structs.replace(ROW, body=b'{"name":"Eve"}'), decode)


def test_documents_that_cannot_compare_themselves_are_compared_as_stored() -> None:
    """A user's class without `__eq__` is no false alarm."""
    held, loaded, other = Note(opaque=Opaque("a")), Note(opaque=Opaque("a")), Note(opaque=Opaque("b"))
    assert held != loaded
    assert not differs(local(held), ROW, lambda _key, _row: loaded)
    assert differs(local(held), ROW, lambda _key, _row: other)


def test_a_class_that_makes_another_document_each_time_is_not_compared() -> None:
    """Its default for a field that the row lacks is no false alarm; another version of it still differs."""
    numbers = itertools.count()

    def decode(_key: Key, _row: Row) -> Bot:
        return Bot(name=f"bot {next(numbers)}")

    sample = local(decode(KEY, ROW))
    assert not differs(sample, ROW, decode)
    assert differs(sample, msgspec.structs.replace(ROW, version=6), decode)


def test_the_bound_says_what_a_sample_of_this_size_can_say() -> None:
    """Nothing found is no proof of nothing there: the more samples, the lower the bound."""
    assert TierConsistency().stale_share_max == 1.0
    none = [TierConsistency(samples=size).stale_share_max for size in (10, 1000, 100_000)]
    assert none == sorted(none, reverse=True)
    square = CONFIDENCE_95**2
    assert none[1] == pytest.approx(square / (1000 + square))
    some = TierConsistency(samples=1000, stale=10)
    assert some.consistent_share == 0.99
    assert 0.01 < some.stale_share_max < 0.02
    assert str(TierConsistency(samples=3012)) == "0 stale of 3,012, with 95 % confidence at most 0.09%"
