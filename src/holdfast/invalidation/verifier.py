"""The verifier: asks L3 whether sampled answers of L1 and L2 were right, repairs those that were not and says why.

A cached answer may lawfully be older than L3, by up to the staleness bound. So a sample that differs only counts as
stale if it is still served after a poll of the feed that began after L3 was asked: that poll brought the change, if
anything ever will. No version comes back once it was replaced, so a writer that never rests causes no false alarm.

The cost is bounded whatever the load: so many samples a second, one query of L3 for all of them, which sends no
document that is at its sample's version, but for a few whose contents are compared too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

import msgspec

from holdfast.clock import Clock
from holdfast.entry import Tier
from holdfast.errors import HoldfastError
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.causes import cause, differed_since
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.consistency import ConsistencyReport, Finding, Sample, Suspect, differs
from holdfast.invalidation.key_history import KeyHistory, Line
from holdfast.invalidation.lease import FeedLease
from holdfast.invalidation.repairing import Answers, Repairer, asked_again, is_answered
from holdfast.invalidation.sampling import AnswerSampler, ShelfSampler
from holdfast.protocols import Coherence, Loaded, SharedCache, Storage, View
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import Shelf

logger = logging.getLogger("holdfast")
INCONSISTENT: Final = "cache/inconsistent"
"""The topic under which findings are published."""
ROUND_SECONDS: Final = 1.0
BODIES_MAX: Final = 4
"""Samples of a round whose contents are compared, beyond their versions."""
FINDINGS_MAX: Final = 100
"""Findings kept; beyond, the oldest go."""

Emit = Callable[[str, Mapping[str, Any]], None]


class Verifier:
    """Verifies a share of this server's cached answers, in the background.

    Args:
        share: of the answers, 0 to 1; with 0 nothing is sampled and nothing runs.
        checks_max: samples a round, so many a second.
        shelves: L1's, by kind.
        answers: draws from L2's.
        server: this one's name, for the findings.
        emit: publishes a finding under a topic; must neither wait nor raise.

    Attributes:
        fault: why the last round failed; None: it did not.
    """

    def __init__(
        self,
        *,
        share: float,
        checks_max: int,
        shelves: Mapping[str, Shelf],
        answers: AnswerSampler,
        l2: SharedCache,
        l3: Storage,
        resolver: Resolver,
        view: View,
        lease: FeedLease,
        feed: ChangeFeed,
        applier: ChangeApplier,
        history: KeyHistory,
        clock: Clock,
        random_: Random,
        server: str,
        emit: Emit | None = None,
    ) -> None:
        self._share = share
        self._checks_max = checks_max
        self._shelves = shelves
        self._answers = answers
        self._local = ShelfSampler(shelves, share, room=checks_max, random_=random_)
        self._l2 = l2
        self._l3 = l3
        self._decode = resolver.decode
        self._repairer = Repairer(shelves=shelves, l2=l2, resolver=resolver, view=view, applier=applier)
        self._view = view
        self._lease = lease
        self._feed = feed
        self._applier = applier
        self._history = history
        self._clock = clock
        self._random = random_
        self._server = server
        self._emit = emit
        self._tally = ConsistencyReport()
        self._findings: deque[Finding] = deque(maxlen=FINDINGS_MAX)
        self._task: asyncio.Task[None] | None = None
        self.fault: Exception | None = None

    def start(self) -> None:
        """Verify in the background, unless the share is 0."""
        if self._task is None and self._share > 0:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="holdfast verifier")

    async def stop(self) -> None:
        """End; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def report(self) -> ConsistencyReport:
        """The figures so far, and the last findings."""
        return ConsistencyReport(replace(self._tally.l1), replace(self._tally.l2), tuple(self._findings))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            try:
                await self.round()
                self.fault = None
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault; `fault` shows it
                self._note_fault(fault)

    def _note_fault(self, fault: Exception) -> None:
        self.fault = fault
        if not isinstance(fault, HoldfastError):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a round of the verifier failed", "exception": fault}
            )

    async def round(self) -> None:
        """Verify a share of the answers given since the last round.

        Raises:
            TierError: L3 could not be asked; these samples are lost.
        """
        samples = [*self._local.take(self._clock.monotonic()), *self._answers.take()]
        if samples:
            await self.verify(self._random.sample(samples, min(len(samples), self._checks_max)))

    async def verify(self, samples: Sequence[Sample]) -> None:
        """Judge samples, repair what was wrong, and publish it.

        Raises:
            TierError: as `round`.
        """
        loaded = await self._load(samples)
        loaded_at = self._clock.monotonic()
        suspects = []
        for sample in samples:
            row = loaded.rows.get(sample.key)
            if differs(sample, row, self._decode):
                suspects.append(Suspect(sample, row.version if row is not None else 0))
            else:
                self._tally.of(sample.tier).samples += 1
        stale = await self._still_served(suspects, loaded.coherence, loaded_at) if suspects else []
        if stale:
            await self._settle(stale, loaded_at)

    async def _load(self, samples: Sequence[Sample]) -> Loaded:
        """L3's rows, the first of them with their bodies even if their versions are the samples'."""
        whole = {sample.key for sample in samples[:BODIES_MAX]}
        known = {sample.key: sample.version for sample in samples if sample.version and sample.key not in whole}
        began = self._clock.monotonic()
        loaded = await self._l3.load(list(dict.fromkeys(sample.key for sample in samples)), known)
        self._applier.adopt(loaded.coherence, began)  # another incarnation empties L1, and voids what L2 holds
        return loaded

    async def _still_served(self, suspects: list[Suspect], coherence: Coherence, loaded_at: float) -> list[Suspect]:
        """Those that are stale beyond doubt."""
        heard = await self._has_heard_since(loaded_at, coherence)
        answers = await asked_again(self._l2, suspects, self._view) if heard else {}
        stale = []
        for suspect in suspects:
            tally = self._tally.of(suspect.sample.tier)
            served = self._is_served(suspect, answers) if heard else None
            if served is None:
                tally.unsettled += 1
                continue
            tally.samples += 1
            tally.differing += 1
            if served:
                stale.append(suspect)
        return stale

    async def _has_heard_since(self, moment: float, coherence: Coherence) -> bool:
        """Whether this server has applied everything that L3's answer, come at a moment, may have contained."""
        return (
            await self._feed.refresh()
            and self._lease.renewed_at >= moment
            and self._applier.incarnation == coherence.incarnation
        )

    def _is_served(self, suspect: Suspect, answers: Answers) -> bool | None:
        """Whether the same answer would be given now; None: nobody can tell."""
        sample = suspect.sample
        if not self._lease.valid(sample.key.kind, self._clock.monotonic()):
            return None
        if sample.tier is Tier.L1:
            return suspect.is_given_by(self._shelves[sample.key.kind].entry(sample.key.id))
        return is_answered(suspect, answers)

    async def _settle(self, stale: Sequence[Suspect], loaded_at: float) -> None:
        """Repair, and publish whatever comes of it. The cause is looked for first: repairing makes history too."""
        history = self._history.of({suspect.sample.key for suspect in stale})
        findings = [self._finding(suspect, history[suspect.sample.key], loaded_at) for suspect in stale]
        gone = [False] * len(stale)
        try:
            await self._repairer.repair(stale)
            gone = await self._repairer.are_gone(stale)
        finally:
            for finding, repaired in zip(findings, gone, strict=True):
                self._publish(msgspec.structs.replace(finding, repaired=repaired))

    def _finding(self, suspect: Suspect, lines: Sequence[Line], loaded_at: float) -> Finding:
        now, sample = self._clock.monotonic(), suspect.sample
        return Finding(
            key=sample.key,
            tier=sample.tier,
            served=sample.version,
            truth=suspect.truth,
            differed_seconds=now - differed_since(suspect, lines, seen_at=loaded_at),
            server=self._server,
            cause=cause(suspect, lines, now=now, complete_since=self._history.complete_since),
            history=tuple(line.told(now) for line in lines),
        )

    def _publish(self, finding: Finding) -> None:
        tally = self._tally.of(finding.tier)
        tally.stale += 1
        tally.repaired += finding.repaired
        self._findings.append(finding)
        logger.warning("%s", finding)
        if self._emit is not None:
            self._emit(INCONSISTENT, finding.data())
