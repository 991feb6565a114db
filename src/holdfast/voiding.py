"""Invalidation on demand: by key, kind, tag, or everything (rule C4).

Nothing is looked up in any cache: L3 raises one number, records who did it and why, and the change feed tells everybody
else. This server knows it when the call returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from holdfast.audit.chain import AuditAction, AuditNote
from holdfast.audit.log import noted
from holdfast.errors import SettingsError
from holdfast.invalidation.applying import ChangeApplier
from holdfast.kinds import Kind
from holdfast.protocols import Invalidation, Storage, Target
from holdfast.tags import check_tag
from holdfast.writing import Writer

TEXT_MAX: Final = 1000
"""Characters of a reason, or of an actor's name."""


class Invalidator:
    """Makes void what caches hold; one per server.

    Args:
        actor: who this server is, where a call does not say.
        audited: what it makes void is recorded in the audit log, in the same transaction. What the rules do is not:
            that nobody has decided.
    """

    def __init__(
        self,
        *,
        l3: Storage,
        kinds: Mapping[str, Kind[Any]],
        writer: Writer,
        applier: ChangeApplier,
        actor: str,
        audited: bool = True,
    ) -> None:
        self._l3 = l3
        self._kinds = kinds
        self._writer = writer
        self._applier = applier
        self._actor = actor
        self._audited = audited

    async def invalidate(
        self,
        *,
        kind: str | None = None,
        tag: str | None = None,
        all: bool = False,  # noqa: A002 - the word of the rule, and of the command
        reason: str,
        actor: str | None = None,
    ) -> Invalidation:
        """Make void what every cache of every server holds of a kind, of a tag, or (``all=True``) at all.

        This server answers nothing void when the call has returned, the others when their staleness bound is over.

        Args:
            reason, actor: for the record, at most 1000 characters; the actor is by default this process.

        Raises:
            SettingsError: not exactly one of kind, tag and all; a kind that is not known here; an unfit reason.
            InvalidKey: the tag.
            OutcomeUnknown: the connection was lost after sending; to repeat it does no harm.
            TierError: L3 could not do it.
        """
        if (kind is not None) + (tag is not None) + bool(all) != 1:
            raise SettingsError("invalidate takes exactly one of kind=..., tag=... and all=True")
        if kind is not None and kind not in self._kinds:
            raise SettingsError(f"kind {kind} is not known here; known are {', '.join(sorted(self._kinds))}")
        return await self.void(Target(kind, tag=tag if tag is None else check_tag(tag)), reason, actor)

    async def void(self, target: Target, reason: str, actor: str | None) -> Invalidation:
        """Make a target void, to the end, whatever becomes of the caller; as `invalidate`."""
        reason, actor = checked_text("reason", reason), checked_text("actor", actor or self._actor)
        return await self._writer.shielded(self._void(target, reason, actor))

    async def _void(self, target: Target, reason: str, actor: str) -> Invalidation:
        note = invalidation_note(target, reason, actor) if self._audited else None
        done = await self._l3.invalidate(target, reason=reason, actor=actor, note=note)
        self._writer.adopt()  # a generation of a kind, or of everything, is in L3's identity
        if target.tag is not None:
            self._applier.void_tags({target.tag: done.number})
        self._writer.tell(
            {target.key: done.number} if target.key is not None else {}
        )  # in any case the others are woken
        return done


def invalidation_note(target: Target, reason: str, actor: str) -> AuditNote:
    """What the audit log says of it (pure)."""
    return noted(AuditAction.INVALIDATED, str(target), actor=actor, reason=reason)


def checked_text(what: str, text: str) -> str:
    """A reason or an actor's name, as it is recorded.

    Raises:
        SettingsError: it is not text, empty, too long, or nothing that PostgreSQL stores.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_MAX:
        raise SettingsError(f"invalidate: {what} is a text of 1 to {TEXT_MAX} characters")
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise SettingsError(f"invalidate: {what} holds NUL or half a character, which PostgreSQL cannot store")
    return text
