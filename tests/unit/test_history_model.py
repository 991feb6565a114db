"""The history checker against a search that tries all: every time of the commits, every meaning of the answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import combinations_with_replacement, product
from math import inf
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from holdfast.testing.history import History, Rule, check
from holdfast.testing.history_order import Call, Commit, FeedOrder, Progress, Visible

FIRST, LAST = -3, 5  # the grid of times: whole seconds, from before all bounds to the end


class Made(NamedTuple):
    """A commit of the one key, times in whole seconds; `begun` None: not known, `at` None: before the run."""

    version: int
    begun: int | None
    at: int | None
    deleted: bool


class Said(NamedTuple):
    """A read, or a write (without `began` and `bound`), of the one key."""

    session: str | None
    version: int | None
    began: int | None
    ended: int
    bound: float


class Claim(NamedTuple):
    """What must hold of one call: one of its places was the state at some time, and no older than those it follows."""

    places: Sequence[int]
    first: int
    last: int
    follows: Sequence[int]


def timings(commits: Sequence[Made]) -> Iterator[tuple[int, ...]]:
    """Every way to give each commit its time in the feed's order, between its two limits."""
    first = [FIRST if commit.begun is None else commit.begun for commit in commits]
    last = [FIRST if commit.at is None else commit.at for commit in commits]
    for times in combinations_with_replacement(range(FIRST, LAST + 1), len(commits)):
        if all(early <= time <= late for early, time, late in zip(first, times, last, strict=True)):
            yield times


def explained(times: Sequence[int], claims: Sequence[Claim]) -> bool:
    """Whether some choice of a place for each call keeps every claim under these times of the commits."""
    since = [FIRST, *times]
    until = [*times, LAST]
    open_to = [
        [place for place in claim.places if max(since[place], claim.first) <= min(until[place], claim.last)]
        for claim in claims
    ]
    return any(
        all(place >= chosen[other] for claim, place in zip(claims, chosen, strict=True) for other in claim.follows)
        for chosen in product(*open_to)
    )


class Search:
    """The promise as it is defined: a call is wrong if nothing explains it together with the right calls before it.

    So a history has no violation exactly if something explains the whole of it.
    """

    def __init__(self, commits: Sequence[Made]) -> None:
        self.commits = commits
        self.timings = list(timings(commits))
        self.right: list[tuple[Said, Claim]] = []

    def places(self, call: Said) -> list[int]:
        """Every place the answer can mean."""
        numbered = list(enumerate(self.commits, 1))
        if call.version is None:
            return [0, *(place for place, commit in numbered if commit.deleted)]
        reads = call.began is not None
        return [
            place for place, commit in numbered if commit.version == call.version and not (reads and commit.deleted)
        ]

    def claim(self, call: Said, *rules: Rule) -> Claim:
        """What the call claims under some of the rules; PHANTOM and ORDER are always among them."""
        began = call.ended if call.began is None else call.began
        bounded = Rule.STALE in rules and call.began is not None and call.bound < inf
        binding = {True: Rule.READ_YOUR_WRITES in rules, False: Rule.MONOTONIC in rules}
        follows = [
            number
            for number, (other, _) in enumerate(self.right)
            if call.began is not None and call.session is not None and other.session == call.session
            if other.ended <= began and binding[other.began is None]
        ]
        return Claim(self.places(call), began - int(call.bound) if bounded else FIRST, call.ended, follows)

    def fits(self, claim: Claim) -> bool:
        """Whether the claim can be explained together with the right calls."""
        claims = [*(right for _, right in self.right), claim]
        return any(explained(times, claims) for times in self.timings)

    def judge(self, call: Said, rules: Sequence[Rule] = tuple(Rule)) -> list[Rule]:
        """The rules the call breaks, each taken alone; a call that breaks none is right from then on."""
        whole = self.claim(call, *rules)
        if self.fits(whole):
            self.right.append((call, whole))
            return []
        if not self.fits(self.claim(call)):
            return [Rule.PHANTOM]
        return [rule for rule in rules if not self.fits(self.claim(call, rule))]


def misordered(commits: Sequence[Made]) -> list[Rule]:
    """One for each commit that was visible before one that the feed puts before it had begun."""
    at = [-inf if commit.at is None else commit.at for commit in commits]
    begun = [-inf if commit.begun is None else commit.begun for commit in commits]
    return [Rule.ORDER for later in range(len(commits)) if any(begun[earlier] > at[later] for earlier in range(later))]


def searched(commits: Sequence[Made], calls: Sequence[Said]) -> list[tuple[Rule, Hashable]]:
    """What the checker should say of the calls, in the order it says it."""
    search = Search(commits)
    in_order = sorted(calls, key=lambda call: call.ended if call.began is None else call.began)
    return [(rule, call.session) for call in in_order for rule in search.judge(call)]


def checked(commits: Sequence[Made], calls: Sequence[Said], **options: Any) -> list[tuple[Rule, Hashable]]:
    """What the checker says."""
    history = History()
    for commit in commits:
        at = -inf if commit.at is None else commit.at
        history.committed("k", commit.version, at, begun=commit.begun, deleted=commit.deleted)
    for session, version, began, ended, bound in calls:
        if began is None:
            history.wrote(session, "k", version or 0, ended)
        else:
            history.read(session, "k", version, began, ended, bound=bound)
    return [(violation.what, violation.session) for violation in check(history, **options)]


@st.composite
def commit_lists(draw: st.DrawFn) -> list[Made]:
    """One to four commits with versions in any order; mostly in an order that real time allows."""
    versions = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True))
    limits = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=4, max_size=4))
    if draw(st.sampled_from([True, True, True, False])):
        limits.sort(key=sum)
    unknown = [draw(st.booleans()) for _ in versions]
    ancient = draw(st.sampled_from([False, False, False, True]))
    return [
        Made(
            version,
            None if nobody_knows or (ancient and not place) else begun,
            None if ancient and not place else min(LAST, begun + took),
            draw(st.sampled_from([False, False, True])),
        )
        for place, (version, (begun, took), nobody_knows) in enumerate(zip(versions, limits, unknown, strict=False))
    ]


sessions = st.sampled_from(["s", "s", "t", None])


def reads(known: Sequence[int]) -> st.SearchStrategy[Said]:
    """Reads that mostly answer a version the key had, with ends in the grid."""
    return st.builds(
        lambda session, version, began, took, bound: Said(session, version, began, min(LAST, began + took), bound),
        sessions,
        st.sampled_from([None, *known, *known, 6]),
        st.integers(0, LAST),
        st.integers(0, 2),
        st.sampled_from([inf, 2, 1, 0]),
    )


def writes(known: Sequence[int]) -> st.SearchStrategy[Said]:
    """Writes that mostly made a version the key had."""
    versions = st.sampled_from([*known, *known, *known, 6])
    return st.builds(
        lambda session, version, ended: Said(session, version, None, ended, 0), sessions, versions, st.integers(0, LAST)
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Made], list[Said]]:
    """Few commits and few calls of one key."""
    commits = draw(commit_lists())
    known = [commit.version for commit in commits]
    calls = st.one_of(reads(known), reads(known), reads(known), writes(known))
    return commits, draw(st.lists(calls, min_size=1, max_size=6))


def agree(history: tuple[list[Made], list[Said]], **options: Any) -> bool:
    """Whether checker and search say the same; of misordered commits only their order can be compared."""
    commits, calls = history
    disorder = misordered(commits)
    said = checked(commits, calls, **options)
    if disorder:
        return [rule for rule, _ in said if rule is Rule.ORDER] == disorder and not list(timings(commits))
    return said == searched(commits, calls)


@settings(max_examples=1000)
@given(history=histories())
def test_the_checker_says_what_the_search_says(history: tuple[list[Made], list[Said]]) -> None:
    """The same calls break the same rules, in every mixture of commits, deletes, sessions, bounds and overlaps."""
    assert agree(history)


def found(condition: Callable[[tuple[list[Made], list[Said]]], bool]) -> tuple[list[Made], list[Said]]:
    """A history of a kind; the test fails if there is none among those tried."""
    return find(histories(), condition, settings=settings(max_examples=4000, phases=[Phase.generate], database=None))


@pytest.mark.parametrize("rule", Rule)
def test_the_search_misses_each_rule_that_the_checker_leaves_out(rule: Rule) -> None:
    """The comparison above fails for a checker with any one rule switched off, so it exercises them all."""
    found(lambda history: not agree(history, rules=set(Rule) - {rule}))


def overlapping_reads_bind(self: Progress, ended: float, place: int) -> None:
    """Counts a read of a session before it has ended."""
    self.saw = max(self.saw, (place, ended))


def ended_reads_are_forgotten(self: Progress, moment: float) -> None:
    """Counts no read of a session that took its time."""
    self._ended_later.clear()


def newest_missing(self: FeedOrder, floor: int) -> int:
    """Takes MISSING for the newest state that it can mean."""
    return self._missing[-1]


def only_the_first_missing(self: FeedOrder, floor: int) -> int:
    """Takes MISSING for the state before the first commit."""
    return 0


def visible_at_the_moment(self: Visible, moment: float) -> int:
    """Counts what became visible at the very moment the read began as before it."""
    return self._places[sum(time <= moment for time in self._times)]


def last_word_counts(self: Visible, time: float, place: int) -> None:
    """Lets later knowledge of an older state overwrite that of a newer one."""
    earlier = [(known, held) for known, held in zip(self._times, self._places[1:], strict=True) if known < time]
    self._times = [*(known for known, _ in earlier), time]
    self._places = [0, *(held for _, held in earlier), place]


def answers_prove_nothing(self: Visible, commits: Sequence[Commit]) -> None:
    """Learns from the commits only."""
    learn_commits(self, commits)
    self.learn = lambda time, place: None  # type: ignore[method-assign]


def each_commit_begins_alone(self: FeedOrder, call: Call) -> int | None:
    """Forgets that a commit comes after those the feed puts before it."""
    place = self._places.get(call.version or 0)
    if place is None or (call.version in self._deletes and not call.wrote):
        return newest_place(self, call)
    return place if self.commits[place - 1].begun <= call.ended else None


learn_commits = Visible.__init__
newest_place = FeedOrder.newest
MUTANTS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "overlapping reads bind": (Progress, "add_read", overlapping_reads_bind),
    "ended reads are forgotten": (Progress, "settle", ended_reads_are_forgotten),
    "newest MISSING": (FeedOrder, "missing_from", newest_missing),
    "only the first MISSING": (FeedOrder, "missing_from", only_the_first_missing),
    "visible at the moment": (Visible, "before", visible_at_the_moment),
    "last word counts": (Visible, "learn", last_word_counts),
    "answers prove nothing": (Visible, "__init__", answers_prove_nothing),
    "each commit begins alone": (FeedOrder, "newest", each_commit_begins_alone),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_search_catches_a_checker_with_a_fault_in_its_reasoning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to reason nearly right about overlap, MISSING, ties and knowledge is told apart from the right one."""
    owner, method, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, method, mutant)
    found(lambda history: not agree(history))
