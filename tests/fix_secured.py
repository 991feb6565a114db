"""Which connection a client of L2 has to a node."""

from __future__ import annotations

from typing import Any

from holdfast.errors import HoldfastError
from holdfast.tiers import l2_secured


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
