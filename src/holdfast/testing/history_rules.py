"""The rules a history is judged by, one key at a time: pure, and without a search.

Each rule is a limit of the place an answer can have in the feed's order: not beyond the commits begun before the read
ended, not short of what was visible when it began, or of what its session had come to.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Hashable, Iterator, Sequence
from operator import attrgetter

import msgspec

from holdfast.testing.history_order import Call, Commit, FeedOrder, Progress, Visible


class Rule(enum.StrEnum):
    """What a history must keep to; a violation names the one that was broken."""

    ORDER = "order"
    """The feed orders commits as real time does: none was surely visible before an earlier one had begun."""
    PHANTOM = "phantom"
    """An answer is a live version of that key, a write any of its versions; its commit had begun by the call's end."""
    STALE = "stale"
    """An answer is not older than what was visible more than the bound before the read began."""
    READ_YOUR_WRITES = "read_your_writes"
    """A session's answer is not older than its own writes that had completed."""
    MONOTONIC = "monotonic"
    """A session's answer is not older than its earlier answers."""


class Violation(msgspec.Struct, frozen=True):
    """One broken rule.

    Attributes:
        what: the rule; equal to its name, as in ``violation.what == "stale"``.
        key: the key as it was recorded.
        session: the session as it was recorded; None without one, and for the order of commits.
        facts: one sentence with the versions, places in the feed and times (seconds) that prove it.
    """

    what: Rule
    key: Hashable
    session: Hashable
    facts: str


class KeyCheck:
    """One key's commits and calls against the rules.

    An answer that satisfies the rules is taken for the oldest place it can have. That binds later calls least, and
    as every rule is a limit from one side, no other choice could save a later call: so nothing is searched. An
    answer that breaks a rule proves nothing for others.
    """

    def __init__(self, key: Hashable, commits: Sequence[Commit], rules: Collection[Rule]) -> None:
        self._key = key
        self._rules = rules
        self._stale, self._own, self._monotonic = (
            rule in rules for rule in (Rule.STALE, Rule.READ_YOUR_WRITES, Rule.MONOTONIC)
        )
        self._order = FeedOrder(commits)
        self._visible = Visible(commits)
        self._sessions: dict[Hashable, Progress] = {}

    def violations(self, calls: Sequence[Call]) -> Iterator[Violation]:
        """Every broken rule: of the commits first, then of the calls in order of their moments."""
        if Rule.ORDER in self._rules:
            for earlier, later in self._order.contradictions():
                yield self._misordered(earlier, later)
        # A stable sort: of the calls of one moment, the one recorded first comes first.
        for call in sorted(calls, key=attrgetter("moment")):
            yield from self._judge(call)

    def _judge(self, call: Call) -> Sequence[Violation]:
        newest = self._order.newest(call)
        if newest is None:
            return [self._phantom(call)] if Rule.PHANTOM in self._rules else ()
        progress = self._progress(call)
        if call.wrote:
            place = newest
            progress.add_write(call.ended, place)
        else:
            floors = self._floors(call, progress)
            floor = max(floors)
            if newest < floor:
                return self._too_old(call, newest, floors, progress)
            place = newest if call.version is not None else self._order.missing_from(floor)
            if call.session is not None:
                progress.add_read(call.ended, place)
        self._visible.learn(call.ended, place)
        return ()

    def _progress(self, call: Call) -> Progress:
        if call.session is None:
            return Progress()
        progress = self._sessions.get(call.session)
        if progress is None:
            progress = self._sessions[call.session] = Progress()
        progress.settle(call.moment)
        return progress

    def _floors(self, call: Call, progress: Progress) -> tuple[int, int, int]:
        """The oldest places that staleness, own writes and own reads leave to the answer."""
        return (
            self._visible.before(call.oldest) if self._stale else 0,
            progress.wrote[0] if self._own else 0,
            progress.saw[0] if self._monotonic else 0,
        )

    def _too_old(
        self, call: Call, newest: int, floors: tuple[int, int, int], progress: Progress
    ) -> Sequence[Violation]:
        visible, wrote, saw = floors
        found = []
        if newest < visible:
            found.append((Rule.STALE, visible, "was visible", self._visible.since(call.oldest)))
        if newest < wrote:
            found.append((Rule.READ_YOUR_WRITES, wrote, "was written by this session", progress.wrote[1]))
        if newest < saw:
            found.append((Rule.MONOTONIC, saw, "was read by this session", progress.saw[1]))
        answer = f"{_read(call)} answered {self._order.state(newest)}"
        return [
            self._violation(rule, call.session, f"{answer}, but {self._order.state(place)} {what} by {time:.6f} s")
            for rule, place, what, time in found
        ]

    def _phantom(self, call: Call) -> Violation:
        said = f"a write that ended at {call.ended:.6f} s made" if call.wrote else f"{_read(call)} answered"
        facts = f"{said} version {call.version}, but {self._order.why_phantom(call)}"
        return self._violation(Rule.PHANTOM, call.session, facts)

    def _misordered(self, earlier: int, later: int) -> Violation:
        before, after = self._order.commits[earlier - 1], self._order.commits[later - 1]
        facts = (
            f"{self._order.state(later)} was visible by {after.at:.6f} s, but {self._order.state(earlier)}, "
            f"which the feed puts before it, began only at {before.begun:.6f} s"
        )
        return self._violation(Rule.ORDER, None, facts)

    def _violation(self, rule: Rule, session: Hashable, facts: str) -> Violation:
        return Violation(rule, self._key, session, f"{self._key}: {facts}")


def _read(call: Call) -> str:
    bound = call.moment - call.oldest
    return f"a read from {call.moment:.6f} to {call.ended:.6f} s with bound {bound:.6g} s"
