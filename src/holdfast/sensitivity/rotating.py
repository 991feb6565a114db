"""Rotating master keys: all data keys come to be wrapped by the first, and the others wrap nothing any more.

Servers go on meanwhile: what they have unwrapped they keep, and no sealed value is touched. It may be done by several
at once, be broken off and be done again: a row is replaced only as it was read. Afterwards each server seals with a new
data key, which `KeyRing.renew` sees to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.errors import KeyMissing
from holdfast.protocols.data_keys import DataKeyRow, KeyRows, MasterKeyUse
from holdfast.sensitivity.key_ring import wrapped_row
from holdfast.sensitivity.master_keys import MasterKeys

PAGE_ROWS: Final = 500
BY_HAND: Final = "by hand"


class Rotated(msgspec.Struct, frozen=True):
    """What a rotation came to.

    Attributes:
        first: the master key that wraps now.
        rewrapped: rows that this rotation wrapped anew.
        left: rows that are wrapped by others still; 0 unless `faults` says why.
        retired: ids of the master keys that wrap nothing any more.
        faults: why rows could not be wrapped anew, in words.
    """

    first: str
    rewrapped: int
    left: int
    retired: tuple[str, ...]
    faults: tuple[str, ...]


async def rotate(
    rows: KeyRows,
    masters: MasterKeys,
    entropy: Callable[[int], bytes],
    progress: Callable[[str], None],
    *,
    audit: AuditLog,
    actor: str | None = None,
    reason: str = BY_HAND,
) -> Rotated:
    """Wrap all data keys by the first master key, and retire all others that the settings name or L3 knows.

    Args:
        progress: told in words how far it is.
        audit: where it is recorded before it begins.
        actor: who rotates; None: this server.
        reason: why.

    Raises:
        KeyMissing: there is no master key.
        KeyRetired: the first is retired; nothing was changed.
        InvalidKey: the actor or the reason is empty, or nothing that the audit log takes.
        TierError: L3 did not do it; what was done until then stays, and it can be done again.
    """
    first, known = masters.first.id, await rows.masters()
    others = [each for each in dict.fromkeys((*(use.id for use in known), *masters.ids)) if each != first]
    subject, rows_left = _deed(first, others, known)
    await audit.note(AuditAction.ROTATED, subject, actor=actor, reason=reason, detail={"data_keys": rows_left})
    await rows.retire(others, first=first)
    progress(f"from now on {first} alone wraps data keys")
    rewrapped, faults = await _rewrap_all(rows, masters, entropy, progress)
    uses = await rows.masters()
    return Rotated(
        first=first,
        rewrapped=rewrapped,
        left=sum(each.rows for each in uses if each.id != first),
        retired=tuple(each.id for each in uses if each.retired_at is not None),
        faults=tuple(faults),
    )


def _deed(first: str, others: Sequence[str], known: Sequence[MasterKeyUse]) -> tuple[str, int]:
    """What is about to be done, and to how many rows; of keys that were retired before, only those that wrap some."""
    done = {each.id for each in known if each.retired_at is not None and not each.rows}
    older = [each for each in others if each not in done]
    subject = f"master_key:{','.join(older)}->{first}" if older else f"master_key:{first}"
    return subject, sum(each.rows for each in known if each.id != first)


async def _rewrap_all(
    rows: KeyRows, masters: MasterKeys, entropy: Callable[[int], bytes], progress: Callable[[str], None]
) -> tuple[int, list[str]]:
    """One pass is enough: since the others are retired, no row comes to be wrapped by them."""
    rewrapped, faults, after = 0, list[str](), None
    while page := await rows.list(after=after, limit=PAGE_ROWS):
        for row in page:
            if row.master_id == masters.first.id:
                continue
            try:
                rewrapped += await _rewrapped(rows, row, masters, entropy)
            except KeyMissing as fault:
                faults.append(str(fault))
        after = page[-1].id
        progress(f"{rewrapped} data keys are wrapped anew, up to {after}")
    return rewrapped, faults


async def _rewrapped(rows: KeyRows, row: DataKeyRow, masters: MasterKeys, entropy: Callable[[int], bytes]) -> bool:
    """Wrap one anew; False: another rotation was faster."""
    key = masters.unwrap(row.id, row.master_id, row.wrapped)
    return await rows.rewrap(wrapped_row(key, masters, entropy), row.wrapped)
