"""Acts on the invalidation rules: the seed's `CacheInvalidator`, on one server for all.

It goes with the relay, which is elected and misses no change over failures: what depends on changed documents is made
void before the relay notes that it has told of them. If that fails the relay repeats its round, and so the rules: they
may act twice, never not at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from holdfast.documents import Document
from holdfast.errors import CorruptDocument, SchemaTooNew
from holdfast.invalidation import rules
from holdfast.invalidation.rules import Rule, Version
from holdfast.keys import Key
from holdfast.protocols import Change, Invalidation, Row, Storage, Target

KNOWN_MAX: Final = 10_000
"""Documents remembered, to tell what changed in them."""
READ_MAX: Final = 500
"""Documents read for one round; of more the dependent kinds go whole."""
ACTOR: Final = "holdfast rules"


class CacheInvalidator:
    """Plans what goes with changed documents, and makes it void.

    Args:
        chosen: those with dependents act; a document that changed is dropped by the feed anyway.
        decode: makes the document of a row.
        void: makes a target void, with reason and actor.

    Attributes:
        voided: targets made void.
    """

    def __init__(
        self,
        chosen: Iterable[Rule],
        *,
        l3: Storage,
        decode: Callable[[Key, Row], Any],
        void: Callable[[Target, str, str], Awaitable[Invalidation]],
    ) -> None:
        self._rules = tuple(rule for rule in chosen if rule.dependents)
        self._kinds = frozenset(rule.kind for rule in self._rules)
        self._l3 = l3
        self._decode = decode
        self._void = void
        self._known: OrderedDict[Key, Document | None] = OrderedDict()
        self.voided = 0

    async def follow(self, changes: Sequence[Change]) -> None:
        """Make void what depends on what changed.

        Raises:
            TierError: L3 could not say what changed, or not do it; nothing is forgotten, and all of it may be repeated.
        """
        mine = [change for change in changes if change.key.kind in self._kinds]
        whole = {change.key.kind for change in mine if change.whole_kind}
        keys = {change.key for change in mine if change.key.kind not in whole}
        if len(keys) > READ_MAX:
            whole |= {key.kind for key in keys}
            keys = set()
        versions = await self._read(sorted(keys))
        plan = rules.planned(self._rules, versions)
        for kind in sorted(whole):
            plan |= rules.whole_kinds(self._rules, kind)
        for target, reason in plan.items():
            await self._void(target, reason, ACTOR)
            self.voided += 1
        self._remember(versions, whole)

    async def _read(self, keys: Sequence[Key]) -> list[Version]:
        """What became of documents, by L3: this server's caches may not have been told yet."""
        if not keys:
            return []
        rows = (await self._l3.load(keys)).rows
        return [self._version(key, rows.get(key)) for key in keys]

    def _version(self, key: Key, row: Row | None) -> Version:
        try:
            after = None if row is None else self._decode(key, row)
        except (CorruptDocument, SchemaTooNew):
            return Version(key, self._known.get(key), None, known=False)  # whatever it says, it changed
        return Version(key, self._known.get(key), after, known=key in self._known)

    def _remember(self, versions: Iterable[Version], whole: set[str]) -> None:
        for key in [key for key in self._known if key.kind in whole]:
            del self._known[key]
        for version in versions:
            self._known[version.key] = version.after
            self._known.move_to_end(version.key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
