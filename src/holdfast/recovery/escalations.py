"""The escalations of all servers: ``state.escalations``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.decisions.docket import LIST_LIMIT, Docket, Listed
from holdfast.documents import decode
from holdfast.documents.escalation import Escalation, EscalationStatus, TriedStep
from holdfast.errors import Conflict, CorruptDocument, OutcomeUnknown, SchemaTooNew, TierError
from holdfast.keys import check_id
from holdfast.kinds import DELIVERY, ESCALATION
from holdfast.metrics.counters import EscalationCounters
from holdfast.protocols import Isolation, Row
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX, DecisionIndex
from holdfast.protocols.escalations import Asked, EscalationRequest
from holdfast.recovery import escalation_rules as rules
from holdfast.recovery.strategies import Severity, StateErrorType
from holdfast.row_decoding import Page, Stored
from holdfast.transactions import Transaction, Transactions

LOOKED_AT: Final = 10
"""Rows, for the oldest escalation that can be read."""

Decided = TypeVar("Decided", bound=Escalation | None)


class Escalations:
    """Opens, lists and decides escalations; one per server. It is the `FaultEscalator` of recoveries.

    Args:
        timeout_seconds: how long a person has, where nobody says otherwise.
        hooks: who is told of what is opened here, by name.
        new_id: a unique id.
        server: who this server is, in words.
        masked: takes secrets that this process has seen out of a text.
        stored: the escalation in a row of L3.

    Attributes:
        on_decided: called with each escalation that was decided here, by a person or its fallback, once that is
            committed; must neither wait nor raise. A server that dies in between calls nobody, nor does one that L3
            does not tell: what must be done in any case belongs into a hook, which is told until it has taken the
            notice.
    """

    def __init__(
        self,
        collection: Collection[Escalation],
        transactions: Transactions,
        index: DecisionIndex,
        audit: AuditLog,
        counters: EscalationCounters,
        *,
        timeout_seconds: float,
        hooks: Sequence[str],
        new_id: Callable[[], str],
        server: str,
        masked: Callable[[str], str],
        stored: Stored,
    ) -> None:
        self.index = index
        self._docket = Docket(ESCALATION, collection, transactions, index, self._record, stored=stored)
        self._transactions = transactions
        self._audit = audit
        self._counters = counters
        self._timeout_seconds = timeout_seconds
        self._hooks = hooks
        self._new_id = new_id
        self._server = server
        self._masked = masked
        self.on_decided: Callable[[Escalation], None] = lambda _: None

    async def open(
        self,
        subject: str,
        *,
        failed: str,
        timeout_seconds: float | None = None,
        error_type: str = "",
        severity: str = Severity.ERROR.value,
        tried: Sequence[tuple[str, str]] = (),
        options: Sequence[str] = (),
        fallback: str = "",
        recovery_id: str = "",
        swarm_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Ask a person about a fault, and return the escalation's id at once; its hooks are told in the background.

        Its words are read by others, also outside: they name places and hold no values of documents.

        Args:
            subject: what it is about, as in ``bot:b1``, ``run:r1`` or ``tier:l2``.
            failed: what failed, in words.
            timeout_seconds: until nobody is waited for any more, by L3's clock; by default the setting
                `escalation_timeout_seconds`.
            tried: steps with what came of them; the last 32 are kept.
            options: the decision has to be one of these, at most 16; none: it is in free words.
            fallback: what is done if nobody answers, in a word.
            recovery_id: of one recovery there is one escalation, however often it is asked for.
            swarm_id, run_id: whom it concerns.

        Raises:
            InvalidKey: a word is too long, empty or nothing that L3 can store.
            SettingsError: severity, options or timeout are none.
            OutcomeUnknown: it may be open; with a recovery id ask again.
            TierError: L3 did not do it.
        """
        identifier = check_id(rules.escalation_id(recovery_id or self._new_id()))
        asked = Escalation(
            subject=subject,
            failed=failed,
            error_type=error_type,
            severity=severity,
            recovery_id=recovery_id,
            swarm_id=swarm_id,
            run_id=run_id,
            tried=[TriedStep(step=step, outcome=outcome) for step, outcome in tried],
            options=list(options),
            fallback=fallback,
        )
        await self._open(identifier, asked, await self.index.now(), timeout_seconds)
        return identifier

    async def escalate(self, request: EscalationRequest) -> Asked:
        """Open an escalation for a recovery; see `FaultEscalator.escalate`."""
        at = await self.index.now()
        identifier = rules.fault_id(request.error_type, request.subject, request.evidence, at)
        known = await self.get(identifier)
        if known is not None:
            if known.status == EscalationStatus.OPEN and not set(self._hooks) <= set(known.hooks):
                await self._join(identifier)
            return Asked(identifier, known.status)
        if (counted := await self._counted(request, at)) is not None:
            return counted
        if not await self._open(identifier, self._asked(request), at, request.timeout_seconds):
            await self._join(identifier)
        return Asked(identifier, EscalationStatus.OPEN)

    async def _counted(self, request: EscalationRequest, at: dt.datetime) -> Asked | None:
        """Have a fault counted where there are many; None: there are not.

        About as many as that: servers that ask at the same moment do not see each other's.
        """
        many = rules.for_many(request)
        identifier = rules.fault_id(many.error_type, many.subject, many.evidence, at)
        if not await self._join(identifier, further=1):
            if await self._open_alike(request) < rules.OPEN_MAX:
                return None
            # By its setting it might be decided by nobody long before the hour is over, and each burst be asked anew.
            seconds = max(self._timeout_seconds, rules.MANY_SECONDS)
            if not await self._open(identifier, self._asked(many), at, seconds):
                await self._join(identifier, further=1, also_decided=True)  # another server was faster, or a person was
        return Asked(identifier, EscalationStatus.OPEN, alone=False)

    async def _open_alike(self, request: EscalationRequest) -> int:
        """How many of the same type and kind are open; of the first thousand, and of those that can be read."""
        listed = await self._docket.list(
            status=EscalationStatus.OPEN.value, run_id=None, after=None, limit=DECISIONS_LISTED_MAX
        )
        kind = rules.kind_in(request.subject)
        found = (each.document for each in listed)
        return sum(each.error_type == request.error_type and rules.kind_in(each.subject) == kind for each in found)

    async def _join(self, identifier: str, *, further: int = 0, also_decided: bool = False) -> bool:
        """Have this server's hooks told of an open escalation, too, and count further reports in it; False: none is.

        Whoever meets a fault first knows other hooks, maybe none. Of one that was decided nobody is told any more.

        Args:
            also_decided: count, too, in one that is not open.
        """

        async def operate(transaction: Transaction) -> bool:
            escalations = transaction.collection(ESCALATION)
            found = await escalations.get(identifier, lock=True)
            if found is None:
                return False
            is_open = found.status == EscalationStatus.OPEN
            if not (is_open or also_decided):
                return False
            more = [hook for hook in self._hooks if is_open and hook not in found.hooks]
            joined = msgspec.structs.replace(found, further=found.further + further, hooks=[*found.hooks, *more])
            await escalations.put(identifier, joined)
            if more:
                await self._to_be_told(transaction, identifier, msgspec.structs.replace(joined, hooks=more))
            return True

        return await self._transactions.transact(operate, Isolation.READ_COMMITTED)

    def _asked(self, request: EscalationRequest) -> Escalation:
        what = StateErrorType(request.error_type)
        return Escalation(
            subject=request.subject,
            failed=f"{rules.FAILED[what]}: {request.failed}",
            error_type=request.error_type,
            severity=request.severity,
            recovery_id=request.recovery_id,
            swarm_id=request.swarm_id,
            run_id=request.run_id,
            tried=request.tried,
            evidence=request.evidence,
            options=request.options,
            fallback=request.fallback,
            cost=request.cost,
        )

    async def _open(self, identifier: str, asked: Escalation, at: dt.datetime, timeout_seconds: float | None) -> bool:
        """Store a new escalation; False: there is one of that id already."""
        opening = rules.Opening(
            at=at,
            by=self._server,
            timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
            hooks=self._hooks,
            masked=self._masked,
        )
        is_new = await self._insert(identifier, rules.opened(asked, opening))
        self._counters.opened += is_new
        return is_new

    async def list(
        self,
        *,
        status: str | None = EscalationStatus.OPEN.value,
        run_id: str | None = None,
        after: int | None = None,
        limit: int = LIST_LIMIT,
    ) -> Page[Listed[Escalation]]:
        """Escalations, from L3, the oldest first. One that cannot be read hides no other: `unreadable` names it.

        Args:
            status: an `EscalationStatus`; None: any.
            after: the cursor of the last one known.
            limit: 1 to 1000.

        Raises:
            TierError: L3 cannot be asked.
        """
        return await self._docket.list(status=status, run_id=run_id, after=after, limit=limit)

    async def get(self, identifier: str) -> Escalation | None:
        """An escalation as it is in L3 now; None: there is none.

        Raises:
            CorruptDocument, SchemaTooNew: it cannot be read.
            TierError: L3 cannot be asked.
        """
        return await self._docket.get(identifier)

    async def resolve(self, identifier: str, *, decision: str, by: str, reason: str) -> Escalation:
        """Decide an escalation, and record who did and why, in one transaction of L3.

        A fallback of a recovery's that is decided for is then begun by this server; the recovery log tells the outcome.

        Args:
            decision: one of its options, for a recovery's its fallbacks and `leave`; if it has none, in free words.
            by, reason: for the audit log; they are told to its hooks, and name no secret.

        Raises:
            NotFound: there is no such escalation.
            EscalationSettled: it was decided before; the error says by whom.
            SettingsError: it is none of the options.
            InvalidKey: decision, `by` or `reason` is empty, too long, or nothing that L3 can store.
            OutcomeUnknown: L3, asked twice, did not tell whether it is decided. If it is, nothing is begun.
            TierError: L3 did not do it.
        """
        done = await self._decide(
            identifier,
            lambda escalation, at: rules.decided(identifier, escalation, decision, by=by, reason=reason, at=at),
        )
        self._counters.resolved += 1
        self.on_decided(done)
        return done

    async def time_out(self, identifier: str) -> Escalation | None:
        """Leave an escalation to its fallback, and record that no person answered; None: it is not due.

        Raises as `resolve` does.
        """
        done = await self._decide(
            identifier, lambda escalation, at: rules.timed_out(identifier, escalation, at, self._server)
        )
        if done is not None:
            self._counters.timed_out += 1
            self.on_decided(done)
        return done

    async def _decide(self, identifier: str, decision: Callable[[Escalation, dt.datetime], Decided]) -> Decided:
        """Let a decision be made, and return what it made.

        If the reply is lost it is made again: that waits for the lock of the row, so L3 tells then what became of it.
        """
        made: list[Decided] = []

        def once(escalation: Escalation, at: dt.datetime, _: str | None) -> Decided | None:
            if made and rules.is_same_decision(escalation, made[-1]):
                return None
            made.append(decision(escalation, at))
            return made[-1]

        try:
            await self._docket.decide(identifier, once)
        except OutcomeUnknown as unknown:
            try:
                await self._docket.decide(identifier, once)
            except TierError:
                raise unknown from None
        return made[-1]

    async def observe_oldest(self) -> None:
        """Note for how long the oldest one has been open, of the ten oldest; one that cannot be read counts as none.

        Raises:
            TierError: L3 cannot be asked.
        """
        # Not by `list`, which looks on until it can read one, and reports each that it cannot: this is done often.
        rows = await self.index.list(status=EscalationStatus.OPEN.value, limit=LOOKED_AT)
        opened_at = next((at for each in rows if (at := _opened_at(*each)) is not None), None)
        age = 0.0 if opened_at is None else (await self.index.now() - opened_at).total_seconds()
        self._counters.oldest_open_seconds = age

    async def _insert(self, identifier: str, escalation: Escalation) -> bool:
        """Store one with what is to be told of it; False: there is one already."""

        async def operate(transaction: Transaction) -> bool:
            escalations = transaction.collection(ESCALATION)
            if await escalations.get(identifier) is not None:
                return False
            await escalations.put(identifier, escalation, expected_version=0)
            await self._to_be_told(transaction, identifier, escalation)
            return True

        try:
            return await self._transactions.transact(operate, Isolation.READ_COMMITTED)
        except Conflict:  # another server was faster
            return False

    async def _to_be_told(self, transaction: Transaction, identifier: str, escalation: Escalation) -> None:
        """Put what hooks are told into the transaction: so it is told if, and only if, that is in effect."""
        await transaction.collection(DELIVERY).put_many(rules.deliveries_of(identifier, escalation))

    async def _record(self, transaction: Transaction, identifier: str, escalation: Escalation) -> None:
        await self._to_be_told(transaction, identifier, escalation)
        await self._audit.note(
            AuditAction.RESOLVED,
            f"escalation:{identifier}",
            actor=escalation.resolved_by,
            reason=escalation.reason,
            detail={
                "subject": escalation.subject,
                "errorType": escalation.error_type,
                "status": escalation.status,
                "decision": escalation.decision,
            },
            transaction=transaction.opened(),
        )


def _opened_at(identifier: str, row: Row) -> dt.datetime | None:
    try:
        return decode(Escalation, row.body, what=identifier).opened_at
    except (CorruptDocument, SchemaTooNew):
        return None
