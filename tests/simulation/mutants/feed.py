"""The change feed, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.fence_map import FenceMap
from holdfast.protocols import Cursor, Poll, Snapshot
from holdfast.testing import MemoryFeed
from holdfast.testing.memory_log import Entry
from holdfast.tiers.l1_local import LocalCache
from simulation.mutants.registry import mutant


@mutant("F1")
def cursor_by_number(patch: pytest.MonkeyPatch) -> None:
    """The feed tells what has a higher number than what it told last."""

    def since(self: MemoryFeed, cursor: Cursor) -> Sequence[Entry]:
        seen = int(cursor.anchor[1].partition(":")[0]) if len(cursor.anchor) > 1 else 0
        return sorted(entry for entry in self._storage.log.entries() if entry.seq > seen)

    patch.setattr(MemoryFeed, "_since", since)


@mutant("R1")
def feed_spares_what_was_written_here(patch: pytest.MonkeyPatch) -> None:
    """Any change of a key that this server wrote lately is taken for its own."""
    patch.setattr(FenceMap, "is_noted", lambda self, key, version: key in self._unheard)


@mutant("F1")
def incarnation_does_not_flush(patch: pytest.MonkeyPatch) -> None:
    """Another incarnation of L3 leaves L1 as it is."""
    patch.setattr(LocalCache, "flush", lambda self: None)


@mutant("F1")
def anchor_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A cursor is continued over a start of L3 without a proof that these are not older files."""
    patch.setattr(MemoryFeed, "_is_of_this_start", lambda self, cursor: True)


@mutant("F1")
def identity_is_not_renewed(patch: pytest.MonkeyPatch) -> None:
    """An L3 that went back in time keeps its identity."""
    patch.setattr("holdfast.testing.MemoryStorage.renew_identity", lambda self, incarnation: None)


@mutant("F1")
def end_of_a_life_is_not_doubted(patch: pytest.MonkeyPatch) -> None:
    """L1 keeps what was read after the last poll before L3 was started anew."""
    patch.setattr(ChangeApplier, "_doubt_the_end_of_a_life", lambda self: None)


@mutant("F3")
def horizon_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cursor older than the outbox is continued."""
    healthy = MemoryFeed._why_not

    def why_not(self: MemoryFeed, cursor: Cursor, snapshot: Snapshot, coherence: Any) -> str | None:
        reason = healthy(self, cursor, snapshot, coherence)
        return None if reason is not None and "older than the outbox" in reason else reason

    patch.setattr(MemoryFeed, "_why_not", why_not)


@mutant("F4")
def whole_kind_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A change of a whole kind does nothing here."""
    healthy = ChangeApplier.apply

    def apply(self: ChangeApplier, poll: Poll, began: float) -> None:
        single = [change for change in poll.changes if not change.whole_kind]
        healthy(self, msgspec.structs.replace(poll, changes=single), began)

    patch.setattr(ChangeApplier, "apply", apply)
