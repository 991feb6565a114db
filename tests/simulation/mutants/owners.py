"""Taking documents over, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from holdfast.errors import Refused
from holdfast.keys import Key
from holdfast.write_behind import flusher
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.deciding import _Rules
from holdfast.write_behind.flushing import Flushing, Settled
from holdfast.write_behind.handing_over import HandingOver
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.receipts import PendingWrite
from simulation.mutants.registry import mutant


@mutant("S3")
def whoever_owns_it(patch: pytest.MonkeyPatch) -> None:
    """What an old owner wrote is applied to what another one owns."""
    patch.setattr(_Rules, "_check_owner", lambda *_: None)
    patch.setattr(WriteBehind, "_check_owner", lambda *_: None)


@mutant("S3")
def epoch_raised_before_deciding(patch: pytest.MonkeyPatch) -> None:
    """What the old owner had written is left to itself, and comes after the takeover."""

    async def decide_for(_: HandingOver, key: Key, server: str) -> int:
        return 0

    patch.setattr(HandingOver, "decide_for", decide_for)


@mutant("S3")
def first_entry_only(patch: pytest.MonkeyPatch) -> None:
    """Of what is read at a time one entry is decided."""
    healthy = HandingOver._decide

    async def decide(self: HandingOver, record: Any, key: Key, page: Sequence[tuple[int, bytes]]) -> None:
        await healthy(self, record, key, page[:1])

    patch.setattr(HandingOver, "_decide", decide)


@mutant("S3-W7")
def rows_of_a_taker_are_laid_over(patch: pytest.MonkeyPatch) -> None:
    """A server lays its writes over whatever row it reads, also one that whoever took over has applied them to."""
    patch.setattr(Overlay, "knows", lambda *_: True)


@mutant("S3-W7")
def refusals_of_a_taker_are_not_heard(patch: pytest.MonkeyPatch) -> None:
    """What whoever took over had refused is told as committed."""
    healthy = flusher._refusal

    def refusal(write: PendingWrite, settled: Settled) -> Refused | None:
        return write.tentative if write.entry.seq in settled.covered else healthy(write, settled)

    patch.setattr(flusher, "_refusal", refusal)


@mutant("S3")
def history_without_its_row(patch: pytest.MonkeyPatch) -> None:
    """What moves out of a document is not stored elsewhere."""

    async def write_history(*_: Any) -> None:
        return None

    patch.setattr(Flushing, "_write_history", write_history)
