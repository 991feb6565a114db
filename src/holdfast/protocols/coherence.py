"""What the whole system must agree on: which L3 is running, and what of its past no longer counts."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

ANY_VERSION = 2**63 - 1
"""A fence of this version refuses every value: what is known after a write whose outcome is unknown."""
SHARED_SCOPE = "l2"
"""Generations that concern L2 alone: of a node, or, with a colon and its name, of a kind."""


class Coherence(msgspec.Struct, frozen=True):
    """What L3 said of its identity and of the generations, in the same snapshot as the rows beside it.

    Attributes:
        incarnation: the running L3; another value means a crash, a failover or a restore, and empties every
            cache.
        generations: scope to number. ``all`` and ``kind:<name>``: below it cached entries are void;
            ``l2:<name>``: those in L2 are. ``l2``: drawn for its nodes. ``tag``: the newest
            generation of any tag; those themselves come with the feed. ``tagged``: below it entries with tags are void,
            since generations of tags up to it were forgotten.
    """

    incarnation: UUID
    generations: Mapping[str, int] = {}

    def floor(self, kind: str) -> int:
        """The lowest generation an entry of this kind may carry and still count."""
        return max(self.generations.get("all", 0), self.generations.get(f"kind:{kind}", 0))

    def shared_floor(self, kind: str) -> int:
        """The same for entries in L2, of which the relay makes those void that it cannot fence one by one."""
        return max(self.floor(kind), self.generations.get(f"{SHARED_SCOPE}:{kind}", 0))

    @property
    def tag(self) -> int:
        """The newest generation of any tag."""
        return self.generations.get("tag", 0)

    @property
    def tagged(self) -> int:
        """The lowest generation an entry with tags may carry, whatever its tags."""
        return self.generations.get("tagged", 0)

    @property
    def highest(self) -> int:
        """The highest generation; a fill carries that of the snapshot its row was read in."""
        return max(self.generations.values(), default=0)
