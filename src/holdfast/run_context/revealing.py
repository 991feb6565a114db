"""Shows the value of a variable of any run to a person, and records that before it does."""

from __future__ import annotations

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.documents import FreeValue
from holdfast.errors import NotFound
from holdfast.run_context.contexts import Contexts
from holdfast.run_context.ground import Ground
from holdfast.run_context.secrets import key_ids, opened


class Revealing:
    """Reveals variables; one per server."""

    def __init__(self, ground: Ground, contexts: Contexts, audit: AuditLog) -> None:
        self._keys = ground.keys
        self._contexts = contexts
        self._audit = audit

    async def reveal(self, run_id: str, key: str, *, by: str, reason: str) -> FreeValue:
        """The plain value of a variable of any run, as L3 has it now, also of one that is secret.

        The audit log has it, without the value, before anything is opened. From here on errors that this server records
        have the value masked.

        Args:
            by, reason: for the audit log.

        Raises:
            NotFound: there is no such run, or no such variable of it.
            KeyMissing, SealBroken: it cannot be opened here; that it was asked for is recorded.
            InvalidKey: `by` or `reason` is empty, too long, or nothing that L3 can store.
            ContextCorrupt: none of the run's bases verifies.
            TierError: it could not be read or recorded; nothing was opened.
        """
        variable = (await self._contexts.known(run_id)).state.variables.get(key)
        if variable is None:
            raise NotFound(f"run {run_id} has no variable {key}")
        await self._keys.know(key_ids([variable]))
        await self._audit.note(
            AuditAction.REVEALED,
            f"run:{run_id}",
            actor=by,
            reason=reason,
            detail={"variable": key, "sensitivity": variable.sensitivity, "clock": variable.clock},
        )
        return opened(variable, run_id, self._keys.known)
