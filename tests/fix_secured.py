"""Which connection a client of L2 has to a node."""

from __future__ import annotations

from typing import Any

from holdfast.errors import HoldfastError, TierUnavailable
from holdfast.tiers import l2_secured
from holdfast.tiers.l2_secured import SecuredCalls


async def number_of(client: Any, route: Any) -> int:
    """The number of a client's connection to a node."""
    (number,) = await l2_secured._ask(client, [["CLIENT", "ID"]], route)
    return int(number)


async def has_another_connection(client: Any, route: Any, number: int) -> bool:
    """Whether a client has connected anew."""
    try:
        return await number_of(client, route) != number
    except HoldfastError:
        return False


async def is_connected(secured: SecuredCalls) -> bool:
    """Whether its client is: on a busy machine the first call may be refused before it is, and nobody waits longer."""
    try:
        await secured._connection.client()
    except TierUnavailable:
        return False
    return True
