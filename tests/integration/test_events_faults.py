"""Events over a real cluster where something is amiss: half of a call fails, or L2 holds what nobody put there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from fix_event_servers import RedisServers
from fix_races import mutate
from holdfast import OutcomeUnknown, Settings
from holdfast.protocols import Dead, Handed
from holdfast.testing.conformance import EventTransportSuite
from holdfast.testing.conformance.event_transport import BACKLOG_MAX, PLACE
from holdfast.tiers.l2_events import RedisEvents
from holdfast.tiers.l2_scripts import Script

FIRST_LINE = "local ask = cjson.decode(ARGV[1])"


@pytest.fixture
async def suite(settings: Settings) -> AsyncIterator[EventTransportSuite]:
    """One server, with the calls of the conformance suite."""
    async with AsyncExitStack() as stack:
        yield EventTransportSuite(RedisServers(settings, stack))


@pytest.fixture
def transport(suite: EventTransportSuite) -> RedisEvents:
    """That server's transport."""
    assert isinstance(suite.transport, RedisEvents)
    return suite.transport


async def nearly_full(suite: EventTransportSuite) -> tuple[int, list[Handed]]:
    """A reader that holds events, with room for one more; its epoch, and what it holds."""
    epoch = (await suite.exchange()).epoch
    await suite.append(*[b"held"] * (BACKLOG_MAX - 1))
    return epoch, list((await suite.exchange(epoch=epoch)).events)


async def test_what_was_appended_is_not_denied_since_the_sweep_failed(
    suite: EventTransportSuite, transport: RedisEvents
) -> None:
    """One is taken, the other is refused, and the caller is told just that."""
    epoch, _ = await nearly_full(suite)
    refuse(transport._sweep)
    assert await suite.append(b"taken", b"refused") == [True, False]
    assert [each.body for each in (await suite.exchange(epoch=epoch)).events] == [b"taken"]


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_was_appended_is_not_denied_since_the_second_attempt_failed(
    suite: EventTransportSuite, transport: RedisEvents, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """If it was refused, the caller is told what was taken; if nobody knows what became of it, that."""
    epoch, held = await nearly_full(suite)
    await suite.exchange(epoch=epoch, settled=held[:3], room=(0,) * 4)
    run = transport._run

    async def run_on(partition: int, script: Script, asked: dict[str, object], bodies: object = ()) -> object:
        try:
            return await run(partition, script, asked, bodies)  # type: ignore[arg-type]
        finally:
            if script is transport._sweep:
                (refuse if is_known else break_off)(transport._append)

    monkeypatch.setattr(transport, "_run", run_on)
    if is_known:
        assert await suite.append(b"taken", b"refused") == [True, False]
    else:
        with pytest.raises(OutcomeUnknown):
            await suite.append(b"taken", b"refused")
    assert [each.body for each in (await suite.exchange(epoch=epoch)).events] == [b"taken"]


async def test_an_entry_that_nobody_of_us_appended_holds_up_nothing(
    suite: EventTransportSuite, transport: RedisEvents
) -> None:
    """It is handed out as it is, and the next ones too; it may become a dead letter."""
    epoch = (await suite.exchange()).epoch
    await transport._command(["XADD", transport._bases[PLACE] + b":medium", "*", b"\xff", b"\xfe"])
    await suite.append(b"next")
    foreign, following = (await suite.exchange(epoch=epoch)).events
    assert (foreign.body, foreign.repeat, foreign.only) == (b"\xfe", False, "")
    assert following.body == b"next"
    await suite.exchange(epoch=epoch, dead=[Dead(foreign.rank, foreign.entry, "nonsense", 1)])
    (letter,) = await transport.dead_letters(PLACE, limit=10)
    assert letter.body == b"\xfe"


async def test_fields_that_are_no_text_hold_up_nothing(suite: EventTransportSuite, transport: RedisEvents) -> None:
    """Such an event is for no reader of that name."""
    epoch = (await suite.exchange()).epoch
    fields: list[str | bytes] = ["body", b"x", "repeat", b"\xff", "only", b"\xff"]
    await transport._command(["XADD", transport._bases[PLACE] + b":medium", "*", *fields])
    (event,) = (await suite.exchange(epoch=epoch)).events
    assert (event.body, event.repeat, event.only) == (b"x", False, "\ufffd")


async def test_a_dead_letter_that_nobody_of_us_put_there_is_shown_and_discarded(
    suite: EventTransportSuite, transport: RedisEvents
) -> None:
    """Those beside it are, too."""
    await suite.exchange()
    damaged: list[list[str | bytes]] = [
        ["x", "y"],
        ["reader", b"\xff", "reason", b"\xff", "attempts", "many", "rank", "last", "body", "b"],
    ]
    for fields in damaged:
        words: list[str | bytes] = ["XADD", transport._bases[PLACE] + b":dead", "*"]
        await transport._command([*words, *fields])
    empty, odd = await transport.dead_letters(PLACE, limit=10)
    assert (empty.reader, empty.reason, empty.attempts, empty.body) == ("", "", 0, b"")
    assert (odd.reader, odd.reason, odd.attempts, odd.body) == ("\ufffd", "\ufffd", 0, b"b")
    assert [await transport.discard(PLACE, each.letter) for each in (empty, odd)] == [True, True]


def refuse(script: Script) -> None:
    """Let a script be refused, before it does anything."""
    mutate(script, FIRST_LINE, "if true then return redis.error_reply('ERR it is refused') end " + FIRST_LINE)


def break_off(script: Script) -> None:
    """Let a script fail half-way, as far as its caller can tell."""
    mutate(script, FIRST_LINE, "redis.call('NO-SUCH-COMMAND') " + FIRST_LINE)
