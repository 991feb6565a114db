"""Documents that are made while a statement is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.keys import Key
from holdfast.kinds import SWARM, register
from holdfast.protocols import Write
from holdfast.tiers.l3_rows import MADE_ROWS, TURN_BYTES, RowWriter
from holdfast.tiers.l3_statements import statements_of

PARTS = 8


class Slow:
    """A connection that sends a statement in parts, one each time that the loop runs, as a socket takes them.

    Attributes:
        sent: statements that are out.
    """

    def __init__(self) -> None:
        self.sent = 0

    async def fetch(self, _: str, ids: list[str], *__: Any) -> list[tuple[str, int]]:
        for _part in range(PARTS):
            await asyncio.sleep(0)
        self.sent += 1
        return [(identifier, 1) for identifier in ids]


async def test_a_statement_goes_out_while_the_next_documents_are_made() -> None:
    """Or the server would wait for its last part for as long as that takes, and nothing would be won."""
    connection, seen = Slow(), list[int]()

    def made(body: bytes) -> Callable[[], bytes]:
        def make() -> bytes:
            seen.append(connection.sent)
            return body

        return make

    kinds = register([])
    rows = RowWriter(kinds, statements_of(kinds))
    body = bytes(TURN_BYTES // 4)
    writes = [Write(Key(SWARM.name, f"s{number:04d}"), 1, made(body)) for number in range(3 * MADE_ROWS)]
    versions = await rows.save(connection, rows.batches(writes))
    assert len(versions) == 3 * MADE_ROWS
    firsts, lasts = seen[::MADE_ROWS], seen[MADE_ROWS - 1 :: MADE_ROWS]
    assert firsts == [0, 0, 1]
    assert lasts == [0, 1, 2]
