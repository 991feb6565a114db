"""Who is told of faults of state where they are met."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

from holdfast.keys import Key

EVIDENCE_BYTES_MAX: Final = 64 * 1024
"""Of what does not verify, so much is kept: the beginning."""


class Source(StrEnum):
    """Where a fault was met. What keeps the event bus from its streams is a fault of L2, which holds them."""

    L2 = "l2"
    L3 = "l3"
    FEED = "feed"


class FaultSink(Protocol):
    """Takes reports of faults.

    An L2 entry that does not verify, an L3 row that does not decode, a context that cannot be restored, a tier that
    does not answer.
    """

    def report(
        self,
        fault: BaseException,
        source: Source,
        *,
        key: Key | None = None,
        run_id: str | None = None,
        swarm_id: str | None = None,
        evidence: bytes | None = None,
        version: int | None = None,
    ) -> None:
        """Take a report. It never raises and never waits: whoever meets a fault has its own caller to answer.

        Args:
            key: of what was asked for.
            run_id, swarm_id: of what is affected, as far as is known.
            evidence: the bytes that do not verify; the first `EVIDENCE_BYTES_MAX` are kept.
            version: of the row of L3 that they are in.
        """
        ...
