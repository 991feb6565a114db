"""The feed lease: until when caches may answer."""

from __future__ import annotations

from holdfast.invalidation.lease import NEVER, FeedLease
from holdfast.protocols import Snapshot

ALL = Snapshot(100, 100)


def lease_of(told: dict[str, float], **untrusted: str) -> FeedLease:
    return FeedLease(
        {"bot": 0.25, "swarm": 1.0},
        {kind: lambda until, kind=kind: told.update({kind: until}) for kind in ("bot", "swarm")},  # type: ignore[misc]
        untrusted,
    )


def test_nothing_counts_before_the_first_poll() -> None:
    """Also those who answer by themselves are told so at once."""
    told: dict[str, float] = {}
    assert not lease_of(told).valid("bot", 0.0)
    assert told == {"bot": NEVER, "swarm": NEVER}


def test_a_poll_counts_from_its_beginning_for_each_kinds_bound() -> None:
    """What was committed after the poll began may be missing, so the bound runs from there."""
    told: dict[str, float] = {}
    lease = lease_of(told)
    lease.renew(10.0, ALL)
    assert told == {"bot": 10.25, "swarm": 11.0}
    assert lease.valid("bot", 10.249)
    assert not lease.valid("bot", 10.25)
    assert lease.valid("swarm", 10.9)


def test_an_older_poll_takes_nothing_back() -> None:
    """Polls do not overtake each other, but reads that prove the same might."""
    lease = lease_of({})
    lease.renew(10.0, ALL)
    lease.renew(9.0, ALL)
    assert lease.renewed_at == 10.0


def test_a_held_transaction_is_waited_for() -> None:
    """Until a poll's snapshot sees the transaction as over, nothing counts (S1)."""
    lease = lease_of({})
    lease.renew(10.0, ALL)
    lease.hold(120)
    assert not lease.valid("bot", 10.0)
    lease.renew(10.1, Snapshot(110, 130, (120,)))
    assert not lease.valid("bot", 10.1)
    lease.renew(10.2, Snapshot(125, 130))
    assert lease.valid("bot", 10.2)


def test_revoked_it_needs_a_poll() -> None:
    """After a flush only a new poll proves anything; transactions of a lost past are not waited for."""
    lease = lease_of({})
    lease.renew(10.0, ALL)
    lease.hold(120)
    lease.revoke()
    assert not lease.valid("bot", 10.0)
    lease.renew(10.1, Snapshot(5, 5))
    assert lease.valid("bot", 10.1)


def test_an_untrusted_kind_never_counts() -> None:
    """A table whose triggers do not work is served uncached."""
    told: dict[str, float] = {}
    lease = lease_of(told, bot="its trigger is disabled")
    lease.renew(10.0, ALL)
    assert told == {"bot": NEVER, "swarm": 11.0}
