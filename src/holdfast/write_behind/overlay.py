"""Reads see this server's undecided writes, laid over what the tiers hold (rule W7).

L1 holds committed values only. Beside it lies, for each key with undecided writes, what they make of the value that L1
holds. Which writes are laid over a value its version tells: one whose transaction is being committed is stamped with
the version that its row will have, and is laid only over lower ones.

Where writes may be decided by whoever takes their document over (rule S3), that one writes the row while this server
still lays them over. So each write knows up to which version no row holds it; of later rows L3 has to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Any, Final

from holdfast.entry import MISSING
from holdfast.keys import Key
from holdfast.seq_set import SeqSet
from holdfast.tiers.l1_local import Laid
from holdfast.write_behind.applying import apply_all
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.receipts import PendingWrite
from holdfast.write_behind.routes import Inapplicable

OwnedBy = Callable[[Any], int]
NO_KINDS: Final[Mapping[str, OwnedBy]] = MappingProxyType({})
NOTHING: Laid = (object(), None)
"""Laid over no value at all: whoever asks is sent the long way."""


class Overlay:
    """The undecided writes of one server, over committed values.

    Args:
        laid: of each kind, by id, a committed value and what the writes make of it; L1's shelves look there.
        owned: of kinds whose documents are owned, the epoch of a document.
        handed_over: kinds whose writes others may decide while this server lives.
    """

    def __init__(
        self,
        buffer: Buffer,
        laid: Mapping[str, dict[str, Laid]],
        owned: Mapping[str, OwnedBy] = NO_KINDS,
        handed_over: Container[str] = (),
    ) -> None:
        self._buffer = buffer
        self._laid = laid
        self._owned = owned
        self._handed_over = handed_over

    def over(self, key: Key, value: Any, version: int) -> Any:
        """What undecided writes make of a committed value; the very value if there are none.

        Args:
            value: a document or MISSING.
        """
        queue = self._buffer.queues.get(key)
        if queue is None:
            return value
        laid = self._laid[key.kind]
        base, made = laid.get(key.id, NOTHING)
        if base is not value:
            made, epoch = value, self._epoch_of(key, value)
            for write in queue.writes:
                if (write.stamp is None or version < write.stamp) and not 0 < write.entry.owner < epoch:
                    made = laid_over(made, write.entry)
            laid[key.id] = (value, made)
        return made

    def _epoch_of(self, key: Key, value: Any) -> int:
        """The epoch of a committed value: what was written under an earlier one is in it, or will be refused."""
        owned_by = self._owned.get(key.kind)
        if owned_by is None or value is MISSING:
            return 0
        try:
            return owned_by(value)
        except Exception:  # noqa: BLE001 - a user's function, which no read is to fail by
            return 0

    def knows(self, key: Key, version: int) -> bool:
        """Whether it is known which of the undecided writes a row of that version holds."""
        queue = self._buffer.queues.get(key)
        return (
            queue is None
            or key.kind not in self._handed_over
            or all(
                version <= write.absent_through or (write.stamp is not None and version >= write.stamp)
                for write in queue.writes
            )
        )

    def found(self, key: Key, version: int, decided: SeqSet) -> list[PendingWrite]:
        """What was decided when the row was at a version is known; returns the undecided writes that are among it."""
        queue = self._buffer.queues.get(key)
        if queue is None or key.kind not in self._handed_over:
            return []
        elsewhere = []
        for write in queue.writes:
            if write.entry.seq in decided:
                elsewhere.append(write)
            else:
                write.absent_through = max(write.absent_through, version)
        return elsewhere

    def added(self, write: PendingWrite, value: Any, made: Any) -> None:
        """A write was accepted that makes of a committed value, under those before it, another one."""
        self._laid[write.key.kind][write.key.id] = (value, made)

    def changed(self, key: Key) -> None:
        """Writes of a key were stamped or decided: whatever lay over its value may not any more."""
        laid = self._laid[key.kind]
        if key in self._buffer.queues:
            laid[key.id] = NOTHING
        else:
            laid.pop(key.id, None)


def laid_over(value: Any, entry: Entry) -> Any:
    """What an entry makes of a value; MISSING: no row.

    One that cannot be applied is left out: it will be refused when it is decided.
    """
    try:
        made = apply_all(entry.default if value is MISSING else value, entry.operations)
    except Inapplicable:
        return value
    return MISSING if made is None else made
