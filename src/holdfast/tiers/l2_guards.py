"""Cuts nodes of L2 off that do not answer, so that no caller waits for what will not come (pure; see `recovery`).

A node is cut off by its breaker, or at once when a request had all of its time and nothing else was heard from the node
meanwhile. While all is well a batch costs one note per node: a breaker is made with a node's first failure, and let go
of when the last failure is out of its window.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from holdfast.recovery.breaker import Breaker, BreakerRules, Circuit
from holdfast.recovery.pacing import AdaptiveTimeout

TIMEOUT_LEAST_SECONDS: Final = 0.1
"""A busy machine answers later than a healthy network does."""
RULES: Final = BreakerRules(pause_max_seconds=1.0)
"""No caller waits for a probe, so they may come often: a node that is back is found within a second."""


class NodeGuards:
    """The circuits of all nodes of L2, by name. Times are monotonic seconds.

    Args:
        request_timeout_seconds: no request of the client may take longer. Nodes that are asked at once may take half of
            it, and an answer later than that counts as a failure: with the request that asks its node apart, no caller
            waits longer than one and a half times this, or twice and a half where a node must be sent the script first.
    """

    def __init__(self, rules: BreakerRules, *, request_timeout_seconds: float) -> None:
        self._rules = rules
        self._slow = request_timeout_seconds / 2
        self._timeout = AdaptiveTimeout(min(TIMEOUT_LEAST_SECONDS, self._slow), self._slow)
        self._heard: dict[str, float] = {}
        self._suspects: dict[str, Breaker] = {}

    @property
    def timeout_seconds(self) -> float:
        """How long nodes that are asked at once may take."""
        return self._timeout.seconds

    @property
    def any_suspect(self) -> bool:
        """Whether any node failed lately; if not, all of them may be asked."""
        return bool(self._suspects)

    def is_cut_off(self, name: str) -> bool:
        """Whether a node must not be asked, but by probes."""
        breaker = self._suspects.get(name)
        return breaker is not None and breaker.circuit is not Circuit.CLOSED

    def heard_at(self, name: str) -> float:
        """When a node answered last."""
        return self._heard.get(name, -math.inf)

    def answered_together(self, names: Collection[str], began: float, now: float, *, expired: bool = False) -> None:
        """Nodes that were asked at once have answered.

        Args:
            expired: whether others had not when time was over; asking each of them apart tells who is silent.
        """
        heard = self._heard
        for name in names:
            heard[name] = now
        if expired:
            self._timeout.expired()
        elif names:
            self._timeout.observe(now - began)
        if self._suspects:
            for name in names:
                self._note(name, now, well=True)

    def answered(self, name: str, began: float, now: float) -> None:
        """A node that was asked alone has answered, perhaps that it refuses."""
        self._heard[name] = now
        if now - began > self._slow:
            self._suspect(name)
            self._note(name, now, well=False)
        elif self._suspects:
            self._note(name, now, well=True)

    def failed(self, name: str, began: float, now: float) -> None:
        """A node that was asked has not answered, or its connection was lost."""
        breaker = self._suspect(name)
        if now - began > self._slow and self.heard_at(name) < began:
            breaker.trip(now)
        else:
            self._note(name, now, well=False)

    def probe(self, name: str, now: float) -> int | None:
        """A permit to ask a node that is cut off, to be shown to `probed`; None: not now, or it is not cut off."""
        return self._suspects[name].permit(now) if self.is_cut_off(name) else None

    def probed(self, name: str, permit: int, now: float, *, well: bool) -> None:
        """A probe has ended."""
        if (breaker := self._suspects.get(name)) is None:  # it was forgotten meanwhile
            return
        breaker.ended(permit, now, well=well)
        if well:
            self._heard[name] = now
            self._let_go(name, breaker)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget nodes that L2 has no more."""
        known = set(names)
        self._suspects = {name: each for name, each in self._suspects.items() if name in known}
        self._heard = {name: each for name, each in self._heard.items() if name in known}

    def circuits(self, names: Iterable[str]) -> Mapping[str, Circuit]:
        """The circuit of each of these nodes."""
        suspects = self._suspects
        return {name: suspects[name].circuit if name in suspects else Circuit.CLOSED for name in names}

    def _suspect(self, name: str) -> Breaker:
        breaker = self._suspects.get(name)
        if breaker is None:
            breaker = self._suspects[name] = Breaker(self._rules)
        return breaker

    def _note(self, name: str, now: float, *, well: bool) -> None:
        breaker = self._suspects.get(name)
        # Cut off, only probes count: a call from before says nothing of how the node is now.
        if breaker is not None and breaker.circuit is Circuit.CLOSED and (permit := breaker.permit(now)) is not None:
            breaker.ended(permit, now, well=well)
            self._let_go(name, breaker)

    def _let_go(self, name: str, breaker: Breaker) -> None:
        if not breaker.is_failing:
            del self._suspects[name]
