"""Acts on the invalidation rules: the seed's `CacheInvalidator`, on one server for all.

It goes with the relay, which is elected and misses no change over failures: what depends on changed documents is made
void before the relay notes that it has told of them. If that fails the relay repeats its round, and so the rules: they
may act twice, never not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from holdfast.changes import ChangeOperation
from holdfast.documents import Document
from holdfast.errors import (
    Closed,
    CorruptDocument,
    HoldfastError,
    OutcomeUnknown,
    SchemaTooNew,
    SerializationFailure,
    TierUnavailable,
)
from holdfast.invalidation import rules
from holdfast.invalidation.rules import Rule, Version
from holdfast.keys import Key
from holdfast.protocols import Change, Invalidation, Row, Storage, Target

logger = logging.getLogger("holdfast")
KNOWN_MAX: Final = 2_000
"""Documents remembered, to tell what changed in them."""
KNOWN_BYTES_MAX: Final = 64 * 1024
"""Of one of them; a larger one is taken to have changed in everything."""
FOLLOW_SECONDS: Final = 5.0
"""For one round, so that one that stands still is seen, and another server may lead."""
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
        self._known: OrderedDict[Key, Document] = OrderedDict()
        self.voided = 0

    async def follow(self, changes: Sequence[Change]) -> None:
        """Make void what depends on what changed.

        Raises:
            TierError: L3 could not say what changed, or not do it; nothing is forgotten, and all of it may be repeated.
        """
        # A void changes no document: it may be this one's own.
        mine = [each for each in changes if each.key.kind in self._kinds and each.operation is not ChangeOperation.VOID]
        whole = {change.key.kind for change in mine if change.whole_kind}
        by_key: dict[Key, list[Change]] = {}
        for change in mine:
            if change.key.kind not in whole:
                by_key.setdefault(change.key, []).append(change)
        if len(by_key) > READ_MAX:
            whole |= {key.kind for key in by_key}
            by_key.clear()
        await self._in_time(self._act(by_key, whole))

    async def follow_anything(self) -> None:
        """Nobody can tell what changed: make void all that depends on anything. Raises like `follow`."""
        await self._in_time(self._act({}, set(self._kinds)))

    def forget(self) -> None:
        """Others may have acted meanwhile: what was seen of documents is not what they were last."""
        self._known.clear()

    async def _in_time(self, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(FOLLOW_SECONDS):
                await work
        except TimeoutError as fault:
            raise TierUnavailable(f"L3: the invalidation rules took longer than {FOLLOW_SECONDS:g} s") from fault

    async def _act(self, by_key: Mapping[Key, Sequence[Change]], whole: set[str]) -> None:
        rows = (await self._l3.load(sorted(by_key))).rows if by_key else {}
        versions = [self._version(key, by_key[key], rows.get(key)) for key in sorted(by_key)]
        plan = rules.planned(self._rules, versions)
        for kind in sorted(whole):
            plan |= rules.whole_kinds(self._rules, kind)
        for target, reason in plan.items():
            await self._make_void(target, reason)
        self._remember(versions, rows, whole)

    async def _make_void(self, target: Target, reason: str) -> None:
        try:
            await self._void(target, reason, ACTOR)
        except (TierUnavailable, OutcomeUnknown, SerializationFailure):
            raise
        except Closed as fault:  # this server ends; the next that fences L2 follows the same changes
            raise TierUnavailable(f"L3: {fault}") from fault
        except HoldfastError as fault:  # refused, and so it would be for ever: it must not hold up all the others
            logger.warning("invalidation rules: %s could not be made void (%s): %s", target, reason, fault)
        else:
            self.voided += 1

    def _version(self, key: Key, changes: Sequence[Change], row: Row | None) -> Version:
        """What became of a document; its former state is known only if no change of it was passed over since."""
        known = key in self._known and len(changes) == 1 and changes[0].version == (row.version if row else 0)
        try:
            after = None if row is None else self._decode(key, row)
        except (CorruptDocument, SchemaTooNew):
            return Version(key, self._known.get(key), None, known=False)  # whatever it says, it changed
        return Version(key, self._known.get(key), after, known=known)

    def _remember(self, versions: Iterable[Version], rows: Mapping[Key, Row], whole: set[str]) -> None:
        for key in [key for key in self._known if key.kind in whole]:
            del self._known[key]
        for version in versions:
            self._known.pop(version.key, None)
            row = rows.get(version.key)
            if row is not None and version.after is not None and len(row.body) <= KNOWN_BYTES_MAX:
                self._known[version.key] = version.after
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
