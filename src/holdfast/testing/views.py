"""What a server knows when it asks L2, as a test sets it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from holdfast.keys import Key
from holdfast.protocols import Coherence, Watermark


class FixedView(msgspec.Struct, frozen=True):
    """`View` with fixed answers.

    Attributes:
        coherence: what is known of L3.
        fences: the lowest version that an answer may have, by key.
        trusting: what is said of every watermark.
        tags: generations of tags.
        tagged: the kinds that declare tags.
    """

    coherence: Coherence
    fences: Mapping[Key, int] = {}
    trusting: bool = True
    tags: Mapping[str, int] = {}
    tagged: frozenset[str] = frozenset()

    def trusts(self, mark: Watermark) -> bool:  # noqa: ARG002 - the same of all
        """Whether the answers of a node count."""
        return self.trusting

    def fenced(self, key: Key) -> int:
        """The lowest version that an answer may have."""
        return self.fences.get(key, 0)

    def void_below(self, tags: Collection[str]) -> int:
        """The lowest generation that an entry with these tags may carry."""
        return max([self.coherence.tagged if tags else 0, *(self.tags.get(tag, 0) for tag in tags)])
