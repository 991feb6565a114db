"""`JournalStreams` over Redis: a stream for each journal, and a hash that remembers what a stream forgets.

What changes a journal is a script that may be repeated, and goes through `SecuredCalls`. An attempt whose outcome
nobody knows is repeated here, a few times; the script tells what the attempt before has done. One append of a journal
should be under way at a time, with all that waits: that is the group which shares a round.

Keys of a journal have no lifetime until it is dropped, so no policy of the sort `volatile-*` evicts them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Never

from glide import AllPrimaries, GlideClient, GlideError

from holdfast.errors import HoldfastError, OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.protocols import Appended, JournalBehind, JournalSealed
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import Client
from holdfast.tiers.l2_journal_entries import check_append, entry_of, names_of
from holdfast.tiers.l2_lent import LentClients
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_secured import Secured, SecuredCalls, made, understood
from holdfast.tiers.l2_securing import unfit_for_a_journal

ATTEMPTS: Final = 4
PAUSE_SECONDS: Final = 0.1
"""Before an attempt after one whose outcome nobody knows."""
DROPPED_SECONDS: Final = 86_400
"""For how long the name of a journal that was dropped stays sealed."""


class RedisJournals:
    """Journals of all servers that share a prefix.

    Args:
        connection: for reading, which waits for nothing.
        secured: over a connection of its own.
        prefix: of every key name.
        sleep: pauses, seconds.
    """

    def __init__(
        self,
        connection: RedisConnection,
        secured: SecuredCalls,
        *,
        prefix: bytes,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._clients = LentClients(connection)
        self._secured = secured
        self._prefix = prefix
        self._sleep = sleep
        self._append, self._seal, self._drop, self._read = (
            Script(f"journal_{name}") for name in ("append", "seal", "drop", "read")
        )
        self._trim = Script("journal_append", flags="allow-oom")  # this is what frees memory that has run out

    async def close(self) -> None:
        """End what is under way; may be called twice."""
        await self._secured.close()
        await self._clients.close()

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        """Append entries; see `JournalStreams.append`."""
        check_append(entries, expected, keep_from)
        told: list[str | bytes] = [str(expected), str(keep_from)]
        if not entries:
            return _appended(await self._run(journal, self._trim, told))
        told_all = [*told, *(word for seq, body in entries for word in (str(seq), body))]
        try:
            return _appended(await self._run(journal, self._append, told_all))
        except Overloaded:
            await self._run(journal, self._trim, told)  # what need not be kept may make room
            return _appended(await self._run(journal, self._append, told_all))

    async def read(self, journal: str, *, after: int, limit: int, sealed: bool = False) -> Sequence[tuple[int, bytes]]:
        """Entries above a number; see `JournalStreams.read`."""
        names = names_of(self._prefix, journal)

        async def ask(client: Client) -> Any:
            return await made(client, self._read, names, [str(after + 1), str(limit)])

        is_sealed, rows = await self._asked(ask)
        if sealed and not is_sealed:
            raise TierUnavailable(f"L2: a node that answers for journal {journal} does not know of its seal")
        return [entry_of(row) for row in rows]

    async def last(self, journal: str) -> int:
        """The highest number; see `JournalStreams.last`."""
        state, _ = names_of(self._prefix, journal)
        last, seal = await self._asked(lambda client: client.custom_command(["HMGET", state, "last", "seal"]))
        return 0 if seal == b"dropped" else int(last or 0)

    async def seal(self, journal: str) -> int:
        """Let nothing be appended any more; see `JournalStreams.seal`."""
        _, last = (await self._run(journal, self._seal, [])).answer
        return int(last)

    async def drop(self, journal: str) -> None:
        """Remove a stream; see `JournalStreams.drop`."""
        await self._run(journal, self._drop, [str(DROPPED_SECONDS * 1000)])

    async def unfit(self) -> str | None:
        """Why L2 cannot keep a journal; see `JournalStreams.unfit`."""
        told = await self._asked(_information)
        reasons = (unfit_for_a_journal(str(node), reply) for node, reply in told.items())
        return next((reason for reason in reasons if reason is not None), None)

    async def _run(self, journal: str, script: Script, arguments: Sequence[str | bytes]) -> Secured:
        """Run a script that may be repeated until it is known what came of it."""
        names, doubt = names_of(self._prefix, journal), None
        for _ in range(ATTEMPTS):
            if doubt is not None:
                await self._sleep(PAUSE_SECONDS)
            try:
                return _of_one_node(await self._secured.run_counted(names, script, arguments))
            except OutcomeUnknown as fault:
                doubt = fault
            except (TierUnavailable, Overloaded) as fault:
                if doubt is None:
                    raise
                doubt = _still_unknown(fault)
        raise doubt or OutcomeUnknown(f"L2: journal {journal} was not asked")

    async def _asked(self, ask: Callable[[Client], Awaitable[Any]]) -> Any:
        """What a client was answered; it is given up if it lost its connection."""
        async with self._clients.lent() as client:
            try:
                answer = await ask(client)
            except GlideError as fault:
                answer = understood(fault)
                answer.__cause__ = fault
            if not isinstance(answer, HoldfastError):
                return answer
            if isinstance(answer, OutcomeUnknown):
                self._clients.give_up(client)
            raise TierUnavailable(str(answer)) from answer


def _of_one_node(secured: Secured) -> Secured:
    """What was done, if the node that did it is the one that vouches for it.

    While a slot moves, its node hands a script on which finds keys missing, and goes on to answer for the slot.
    """
    where = _text(secured.answer[0])
    if where and where != secured.node:
        raise OutcomeUnknown("L2: it was made at a node to which the slot is moving, and another one vouched for it")
    return secured


def _appended(secured: Secured) -> Appended:
    """What an append returned, or the error that it stands for."""
    _, outcome, number = secured.answer
    if outcome != b"appended":
        _refuse(outcome, int(number))
    return Appended(int(number), secured.replicas)


def _refuse(outcome: bytes, number: int) -> Never:
    if outcome == b"sealed":
        raise JournalSealed(number)
    if outcome == b"behind":
        raise JournalBehind(number)
    raise TierUnavailable(f"L2: a journal has numbers above {number}, and not that: it was appended out of order")


def _still_unknown(fault: HoldfastError) -> OutcomeUnknown:
    """An attempt failed after one that may be in effect."""
    unknown = OutcomeUnknown(f"L2: an attempt before may be in effect; then: {fault}")
    unknown.__cause__ = fault
    return unknown


async def _information(client: Client) -> Mapping[Any, Any]:
    """What each primary tells of itself."""
    if isinstance(client, GlideClient):
        return {"L2": await client.custom_command(["INFO"])}
    told: Any = await client.custom_command(["INFO"], AllPrimaries())
    return {_text(node): reply for node, reply in told.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
