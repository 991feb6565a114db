"""Who is told of escalations: each hook is an exporter of the delivery worker, which tries until it has succeeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from holdfast.documents import Delivery
from holdfast.recovery.escalation_rules import EscalationNotice, exporter_of
from holdfast.run_context.exports import Exporter

EscalationHook = Callable[[EscalationNotice, str], Awaitable[object]]
"""Takes a notice, and returns when it has it for good; the text is its idempotency key, since it may come again."""

LEADER: Final = "leader"
WEBHOOK: Final = "webhook"
RESERVED: Final = frozenset({LEADER, WEBHOOK})
"""Names of hooks that are built in."""


def exporters_of(hooks: Mapping[str, EscalationHook]) -> dict[str, Exporter]:
    """Hooks as exporters, by the reserved names under which their deliveries are made."""
    return {exporter_of(name): _exporter(hook) for name, hook in hooks.items()}


def _exporter(hook: EscalationHook) -> Exporter:
    async def bring(delivery: Delivery, idempotency_key: str) -> None:
        await hook(msgspec.convert(delivery.value, EscalationNotice), idempotency_key)

    return bring
