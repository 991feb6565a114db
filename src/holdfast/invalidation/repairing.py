"""Takes stale entries out of both tiers, and looks whether they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec

from holdfast.entry import Tier
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.consistency import Suspect
from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Failed, SharedCache, View, Watermark
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import Shelf

Answers = Mapping[Key, Cached | Absent | Failed]


class Repairer:
    """Repairs what is stale beyond doubt.

    Args:
        shelves: L1's, by kind.
    """

    def __init__(
        self,
        *,
        shelves: Mapping[str, Shelf],
        l2: SharedCache,
        resolver: Resolver,
        view: View,
        applier: ChangeApplier,
    ) -> None:
        self._shelves = shelves
        self._l2 = l2
        self._resolver = resolver
        self._view = view
        self._applier = applier

    async def repair(self, stale: Sequence[Suspect]) -> None:
        """Take the entries out of both tiers, and load them anew.

        L2 comes first, so that L1 is not filled from it again; then nothing older than L3's row, nor anything read
        before now, is believed here.
        """
        # Of one key both tiers may hold something else, and L2's own version is the one to be withdrawn from it.
        ordered = sorted(stale, key=lambda suspect: suspect.sample.tier is Tier.L2)
        withdrawals = {suspect.sample.key: suspect.withdrawal for suspect in ordered if suspect.sample.version}
        await self._l2.withdraw(list(withdrawals.values()), self._view.coherence)
        for suspect in stale:
            self._applier.tell(suspect.sample.key, suspect.fence)
        # One that cannot be loaded is not held either, and the next reader is told why.
        keys = {suspect.sample.key for suspect in stale}
        await asyncio.gather(*(self._reload(key) for key in keys), return_exceptions=True)

    async def are_gone(self, stale: Sequence[Suspect]) -> list[bool]:
        """Whether L1, and L2 for a server that was told nothing, hold something else or nothing now."""
        answers = await asked_again(self._l2, stale, _Untold(self._view.coherence))
        return [
            not suspect.is_brought_back_by(self._shelves[suspect.sample.key.kind].entry(suspect.sample.key.id))
            if suspect.sample.tier is Tier.L1
            else is_answered(suspect, answers) is False
            for suspect in stale
        ]

    async def _reload(self, key: Key) -> None:
        await self._resolver.load_strong(key)


class _Untold(msgspec.Struct, frozen=True):
    """The `View` of a server that knows of no change and trusts every node: what an entry is worth by itself."""

    coherence: Coherence
    tagged: frozenset[str] = frozenset()

    def trusts(self, mark: Watermark) -> bool:  # noqa: ARG002 - the same of all
        return True

    def fenced(self, key: Key) -> int:  # noqa: ARG002 - the same of all
        return 0

    def void_below(self, tags: Collection[str]) -> int:  # noqa: ARG002 - the same of all
        return 0


async def asked_again(l2: SharedCache, suspects: Sequence[Suspect], view: View) -> Answers:
    """What L2 answers now for the keys for which it gave a suspect."""
    keys = {suspect.sample.key for suspect in suspects if suspect.sample.tier is Tier.L2}
    return await l2.read(list(keys), view, lease=False) if keys else {}


def is_answered(suspect: Suspect, answers: Answers) -> bool | None:
    """Whether L2 answers with the very row of the suspect; None: it does not answer."""
    answer = answers[suspect.sample.key]
    if isinstance(answer, Failed) and answer.absent is None:
        return None
    return isinstance(answer, Cached) and answer.row == suspect.sample.answer
