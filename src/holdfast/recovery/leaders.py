"""What the leader of a swarm is told of faults that concern it: one event, whether or not a person is asked."""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.collection import Collection
from holdfast.documents import Swarm
from holdfast.documents.escalation import EscalationStatus, TriedStep
from holdfast.errors import HoldfastError
from holdfast.events import Delivery, Priority
from holdfast.invalidation.bus import EventBus
from holdfast.recovery.escalation_rules import EscalationNotice

ALERT: Final = "swarm/recovery/alert"
"""A fault was met; of its escalation, if there is one, the topics tell that are beside its status."""
TOPICS: Final = {
    EscalationStatus.OPEN: "swarm/escalation/opened",
    EscalationStatus.RESOLVED: "swarm/escalation/resolved",
    EscalationStatus.TIMED_OUT: "swarm/escalation/timed_out",
}
HIGH: Final = "high"


class LeaderNotice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The data of these events; `msgspec.convert(event.data, LeaderNotice)` reads them.

    Attributes:
        leader_bot_id: the bot that leads the swarm; None: it is not known, for it may be just the swarm that cannot be
            read.
        urgency: `normal` or `high`.
        tried: steps so far, with what came of them.
        escalation: what has become of it; None: it is told of the fault.
    """

    swarm_id: str
    leader_bot_id: str | None
    recovery_id: str
    error_type: str
    severity: str
    subject: str
    run_id: str | None
    urgency: str
    tried: tuple[TriedStep, ...]
    escalation: EscalationNotice | None = None


class Leaders:
    """Tells leaders, by reliable events, in order for each swarm."""

    def __init__(self, bus: EventBus, swarms: Collection[Swarm]) -> None:
        self._bus = bus
        self._swarms = swarms

    async def tell(self, topic: str, notice: LeaderNotice) -> str | None:
        """Publish a notice, in which the leader is filled in, and return who that is.

        Raises:
            TierError: L2 did not take it, or did not say so.
        """
        leader = await self._leader_of(notice.swarm_id)
        await self._bus.publish(
            topic,
            msgspec.to_builtins(msgspec.structs.replace(notice, leader_bot_id=leader)),
            delivery=Delivery.RELIABLE,
            priority=Priority.HIGH if notice.urgency == HIGH else Priority.MEDIUM,
            key=notice.swarm_id,
        )
        return leader

    async def tell_escalation(self, notice: EscalationNotice, _: str) -> None:
        """The hook that tells what has become of an escalation, if it concerns a swarm. Raises as `tell`."""
        if notice.swarm_id is None:
            return
        told = LeaderNotice(
            swarm_id=notice.swarm_id,
            leader_bot_id=None,
            recovery_id=notice.recovery_id,
            error_type=notice.error_type,
            severity=notice.severity,
            subject=notice.subject,
            run_id=notice.run_id,
            urgency=HIGH,
            tried=notice.tried,
            escalation=notice,
        )
        await self.tell(TOPICS[EscalationStatus(notice.status)], told)

    async def _leader_of(self, swarm_id: str) -> str | None:
        try:
            swarm = await self._swarms.get(swarm_id)
        except HoldfastError:
            return None
        return None if swarm is None else swarm.swarm_leader
