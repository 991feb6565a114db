"""What is known of one key: the places of its states, what was visible when, and how far its sessions have come.

Every answer names its version and the change feed orders the versions, so an answer has a *place*: 0 is MISSING before
the first commit, n the state that the n-th commit made.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from math import inf
from typing import NamedTuple


class Commit(NamedTuple):
    """One commit of a key: surely not visible before `begun`, surely visible from `at`."""

    version: int
    begun: float
    at: float
    deleted: bool


class Call(NamedTuple):
    """A read, or a completed own write, of a key.

    Attributes:
        moment: where it stands in its session: when a read began, when a write ended.
        oldest: what was visible before this moment binds the answer: when a read began less its bound; -inf for a
            write.
    """

    moment: float
    oldest: float
    ended: float
    session: Hashable
    version: int | None
    wrote: bool


class FeedOrder:
    """A key's states by their places in the feed."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self.commits = commits
        self._places = {commit.version: place for place, commit in enumerate(commits, 1)}
        self._deletes = {commit.version for commit in commits if commit.deleted}
        self._missing = [0, *(place for place, commit in enumerate(commits, 1) if commit.deleted)]
        # A state cannot have been visible before every state that the feed puts before it had begun.
        self._begun = list(accumulate((commit.begun for commit in commits), max, initial=-inf))

    def newest(self, call: Call) -> int | None:
        """The newest place that the call can have met by its end; None if there is none: a phantom."""
        if call.version is None:
            begun = bisect_right(self._begun, call.ended) - 1
            return self._missing[bisect_right(self._missing, begun) - 1]
        place = self._places.get(call.version)
        if place is None or self._begun[place] > call.ended or (not call.wrote and call.version in self._deletes):
            return None
        return place

    def missing_from(self, floor: int) -> int:
        """The oldest place from a floor on at which the key was MISSING; the caller knows that there is one."""
        return self._missing[bisect_left(self._missing, floor)]

    def contradictions(self) -> Iterator[tuple[int, int]]:
        """Places (earlier, later) of which the later was surely visible before the earlier had begun."""
        for place, commit in enumerate(self.commits, 1):
            before = self._begun[place - 1]
            if before > commit.at:
                yield bisect_left(self._begun, before), place

    def state(self, place: int) -> str:
        """A place in words."""
        if place == 0:
            return "MISSING before the first commit"
        version, _, _, deleted = self.commits[place - 1]
        return f"{'the delete of ' if deleted else ''}version {version} (place {place} in the feed)"

    def why_phantom(self, call: Call) -> str:
        """Why the call's version cannot have been met."""
        place = self._places.get(call.version or 0)
        if place is None:
            return "the feed has no commit of this version for this key"
        if self._begun[place] > call.ended:
            first = bisect_left(self._begun, self._begun[place])
            return f"{self.state(first)} began only at {self._begun[place]:.6f} s"
        return f"this number was drawn by a delete (place {place} in the feed)"


class Visible:
    """The newest place surely visible before a moment, from commits and from what calls have proved since.

    Kept as stairs: times and places both rise, so that looking up is a bisection. `_places[i]` holds before
    `_times[i]`, and from there on `_places[i + 1]`.
    """

    def __init__(self, commits: Sequence[Commit]) -> None:
        self._times: list[float] = []
        self._places = [0]
        for place, commit in sorted(enumerate(commits, 1), key=lambda item: item[1].at):
            self.learn(commit.at, place)

    def before(self, moment: float) -> int:
        """The newest place surely visible before the moment, not only at it."""
        return self._places[bisect_left(self._times, moment)]

    def since(self, moment: float) -> float:
        """When `before(moment)` was visible at the latest, seconds; the place is not 0."""
        return self._times[bisect_left(self._times, moment) - 1]

    def learn(self, time: float, place: int) -> None:
        """A place was surely visible at a time."""
        step = bisect_right(self._times, time)
        if self._places[step] >= place:
            return
        first = bisect_left(self._times, time, 0, step)
        end = bisect_right(self._places, place, step) - 1
        self._times[first:end] = [time]
        self._places[first + 1 : end + 1] = [place]


class Progress:
    """How far in one key's order a session has come, through calls in order of their moments.

    Attributes:
        wrote: (place, end in seconds) of its newest completed write.
        saw: (place, end in seconds) of the newest answer to a read that had ended by the last `settle`.
    """

    __slots__ = ("_ended_later", "saw", "wrote")

    def __init__(self) -> None:
        self.wrote = self.saw = (0, -inf)
        self._ended_later: list[tuple[float, int]] = []

    def settle(self, moment: float) -> None:
        """Count the reads that ended by a moment; those still open then overlap the call that begins."""
        while self._ended_later and self._ended_later[0][0] <= moment:
            ended, place = heappop(self._ended_later)
            self.saw = max(self.saw, (place, ended))

    def add_read(self, ended: float, place: int) -> None:
        """A read had an answer; it counts once it has ended."""
        if place > self.saw[0]:
            heappush(self._ended_later, (ended, place))

    def add_write(self, ended: float, place: int) -> None:
        """A write completed."""
        self.wrote = max(self.wrote, (place, ended))
