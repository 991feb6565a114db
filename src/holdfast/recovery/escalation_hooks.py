"""Who is told of escalations: each hook is an exporter of the delivery worker, which tries until it has succeeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from holdfast.collection import Collection
from holdfast.documents import Delivery, Swarm
from holdfast.documents.escalation import EscalationStatus
from holdfast.errors import HoldfastError
from holdfast.events import Delivery as Promise
from holdfast.events import Priority
from holdfast.invalidation.bus import EventBus
from holdfast.recovery.escalation_rules import EscalationNotice, exporter_of
from holdfast.run_context.exports import Exporter

EscalationHook = Callable[[EscalationNotice, str], Awaitable[object]]
"""Takes a notice, and returns when it has it for good; the text is its idempotency key, since it may come again."""

LEADER: Final = "leader"
WEBHOOK: Final = "webhook"
RESERVED: Final = frozenset({LEADER, WEBHOOK})
"""Names of hooks that are built in."""
TOPICS: Final[Mapping[str, str]] = {
    EscalationStatus.OPEN: "swarm/escalation/opened",
    EscalationStatus.RESOLVED: "swarm/escalation/resolved",
    EscalationStatus.TIMED_OUT: "swarm/escalation/timed_out",
}


def exporters_of(hooks: Mapping[str, EscalationHook]) -> dict[str, Exporter]:
    """Hooks as exporters, by the reserved names under which their deliveries are made."""
    return {exporter_of(name): _exporter(hook) for name, hook in hooks.items()}


def _exporter(hook: EscalationHook) -> Exporter:
    async def bring(delivery: Delivery, idempotency_key: str) -> None:
        await hook(msgspec.convert(delivery.value, EscalationNotice), idempotency_key)

    return bring


class LeaderTold:
    """The hook that tells the leader of a swarm, by a reliable event on the bus: `TOPICS`, ordered by escalation.

    The event's data are the notice's, with the bot that leads the swarm as `leader`; None: it is not known.
    """

    def __init__(self, bus: EventBus, swarms: Collection[Swarm]) -> None:
        self._bus = bus
        self._swarms = swarms

    async def __call__(self, notice: EscalationNotice, _: str) -> None:
        """Publish what has become of an escalation.

        Raises:
            TierError: L2 did not take it, or did not say so.
        """
        data: dict[str, Any] = msgspec.to_builtins(notice)
        data["leader"] = await leader_of(self._swarms, notice.swarm_id)
        topic = TOPICS[notice.status]
        await self._bus.publish(topic, data, delivery=Promise.RELIABLE, priority=Priority.HIGH, key=notice.id)


async def leader_of(swarms: Collection[Swarm], swarm_id: str | None) -> str | None:
    """The bot that leads a swarm; None: it is not known, for it may be just the swarm that cannot be read."""
    if swarm_id is None:
        return None
    try:
        swarm = await swarms.get(swarm_id)
    except HoldfastError:
        return None
    return None if swarm is None else swarm.swarm_leader
