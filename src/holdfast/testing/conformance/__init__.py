"""What every tier must do, as suites to run on an implementation of your own.

Each suite is a class of async checks named `check_*`; it is built on a harness that makes the tier and lets
time pass. With pytest:

    @pytest.mark.parametrize("check", checks(SharedCacheSuite), ids=lambda check: check.__name__)
    async def test_my_cache(check): await check(SharedCacheSuite(my_cache, ...))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.testing.conformance.audit_rows import AuditRowsSuite
from holdfast.testing.conformance.change_source import ChangeSourceSuite
from holdfast.testing.conformance.decision_index import DecisionIndexSuite
from holdfast.testing.conformance.delivery_queue import DeliveryQueueSuite
from holdfast.testing.conformance.event_transport import EventTransportSuite
from holdfast.testing.conformance.fence_sink import FenceSinkSuite
from holdfast.testing.conformance.journal_base import JournalBaseSuite
from holdfast.testing.conformance.journal_streams import JournalStreamsSuite
from holdfast.testing.conformance.key_rows import KeyRowsSuite
from holdfast.testing.conformance.recovery_rows import RecoveryRowsSuite
from holdfast.testing.conformance.run_index import RunIndexSuite
from holdfast.testing.conformance.shared_cache import SharedCacheSuite
from holdfast.testing.conformance.storage import StorageSuite

if not __debug__:
    raise RuntimeError("the conformance suites are made of assertions: run them without python -O")

__all__ = [
    "AuditRowsSuite",
    "ChangeSourceSuite",
    "DecisionIndexSuite",
    "DeliveryQueueSuite",
    "EventTransportSuite",
    "FenceSinkSuite",
    "JournalBaseSuite",
    "JournalStreamsSuite",
    "KeyRowsSuite",
    "RecoveryRowsSuite",
    "RunIndexSuite",
    "SharedCacheSuite",
    "StorageSuite",
    "checks",
]


def checks(suite: type[Any]) -> list[Callable[[Any], Any]]:
    """The checks of a suite, in order of their definition, those it builds on first."""
    members = [item for each in reversed(suite.__mro__) for item in vars(each).items()]
    return [member for name, member in members if name.startswith("check_")]
