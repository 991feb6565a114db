"""Cuts nodes of L2 off that do not answer, so that no caller waits for what will not come (pure; see `recovery`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holdfast.recovery.breaker import Breaker, BreakerRules, Circuit
from holdfast.recovery.pacing import AdaptiveTimeout

TIMEOUT_LEAST_SECONDS = 0.1
"""A busy machine answers later than a healthy network does."""


class NodeGuards:
    """The breakers of all nodes of L2, by name. Times are monotonic seconds.

    Args:
        request_timeout_seconds: no request may take longer, whatever was observed.
    """

    def __init__(self, rules: BreakerRules, *, request_timeout_seconds: float) -> None:
        self._rules = rules
        self._most = request_timeout_seconds
        self._breakers: dict[str, Breaker] = {}
        self._timeouts: dict[str, AdaptiveTimeout] = {}

    def admit(self, name: str, now: float) -> int | None:
        """A permit to ask a node, to be shown to `ended`; None: it is cut off."""
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = Breaker(self._rules)
        return breaker.permit(now)

    def ended(self, name: str, permit: int, began: float, now: float, *, well: bool) -> None:
        """A node was asked under a permit, and has answered, or has not."""
        if (breaker := self._breakers.get(name)) is None:  # it was forgotten meanwhile
            return
        timeout = self._timeout(name)
        if well:
            timeout.observe(now - began)
        else:
            timeout.expired()
        breaker.ended(permit, now, well=well)

    def timeout_seconds(self, names: Iterable[str]) -> float:
        """How long a request to these nodes together may take."""
        return max((self._timeout(name).seconds for name in names), default=self._most)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget nodes that L2 has no more."""
        known = set(names)
        self._breakers = {name: each for name, each in self._breakers.items() if name in known}
        self._timeouts = {name: each for name, each in self._timeouts.items() if name in known}

    def circuits(self) -> Mapping[str, Circuit]:
        """The circuit of each node that was asked."""
        return {name: breaker.circuit for name, breaker in self._breakers.items()}

    def _timeout(self, name: str) -> AdaptiveTimeout:
        timeout = self._timeouts.get(name)
        if timeout is None:
            timeout = self._timeouts[name] = AdaptiveTimeout(min(TIMEOUT_LEAST_SECONDS, self._most), self._most)
        return timeout
