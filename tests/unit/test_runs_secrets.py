"""Secret variables of runs, over servers that share tiers in memory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from fix_events import until
from fix_run_servers import RUN, hall
from fix_secrets import NEW, OLD, entropy
from holdfast import Delivery
from holdfast.documents import ContextChange, Run, Sealed
from holdfast.errors import InvalidDocument, KeyMissing, KeyRetired, SealBroken, TierUnavailable
from holdfast.run_context.secrets import opened
from holdfast.sensitivity.key_keeper import PERIOD_SECONDS, RETRY_SECONDS, KeyKeeper
from holdfast.sensitivity.key_ring import KeyRing, wrapped_row
from holdfast.sensitivity.known_keys import KnownKeys
from holdfast.sensitivity.master_keys import MasterKeys
from holdfast.sensitivity.rotating import rotate
from holdfast.testing import MemoryKeys

MARK = "qzvxwj"


def kept(at: Any) -> bytes:
    """All that L3 has, and the journals."""
    rows = b"".join(row.body for row in at.l3.log.rows.values())
    return rows + repr(at.hub.__dict__).encode()


async def test_a_run_begins_with_secrets() -> None:
    """They are in its first base, and no change of it: nothing is written again with the first step."""
    async with hall("a", master_keys=(OLD,)) as at:
        async with at.a.begin("search", {"topic": "ants"}, secrets={"token": f"{MARK}-1"}, run_id=RUN) as run:
            assert run.context["token"] == f"{MARK}-1"
            assert (run.context.variable("token").sensitivity, run.context.variable("token").source) == (
                "secret",
                "user",
            )
            assert await run.save() is None
        assert MARK.encode() not in kept(at)
        assert b"$sealed" in kept(at)


async def test_a_child_begins_with_secrets_of_its_own() -> None:
    """Beside those that it inherits."""
    async with (
        hall("a", master_keys=(OLD,)) as at,
        at.a.begin("search", secrets={"token": f"{MARK}-1"}) as run,
        at.a.begin("look", parent=run, secrets={"own": f"{MARK}-2"}) as child,
    ):
        assert dict(child.context) == {"token": f"{MARK}-1", "own": f"{MARK}-2"}
        assert MARK.encode() not in kept(at)


async def test_secrets_that_are_none_are_refused() -> None:
    """Before anything is begun; a parent counts no child that was not."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        attempts: list[tuple[type[Exception], Any]] = [(InvalidDocument, ["token"]), (KeyMissing, {"token": "hush"})]
        for error, secrets in attempts:
            for parent in (None, run):
                with pytest.raises(error):
                    await at.a.begin("look", secrets=secrets, parent=parent)
        assert run.context.children == 0
        assert [each.id for each in await at.a.list()] == [RUN]


async def test_another_server_goes_on_with_a_run_and_its_secrets() -> None:
    """Also if it has to load the key they were sealed with, and after snapshots, and with a later secret of its own."""
    async with hall("a", "b", master_keys=(OLD,)) as at:
        run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
        async with run.step("one"):
            run.context.set("card", f"{MARK}-2", sensitivity="pii")
        await run.checkpoint()
        await run.release()
        forget(at.servers["b"].keys)
        again = await at.b.resume(RUN)
        assert dict(again.context) == {"token": f"{MARK}-1", "card": f"{MARK}-2"}
        again.context["token"] = f"{MARK}-3"
        await again.complete()
        assert MARK.encode() not in kept(at)


def forget(ring: Any) -> None:
    """Let a server know none of the keys that it has not made."""
    sealer = ring.known.sealer
    ring.known = KnownKeys()
    ring.known.sealer = sealer


async def test_a_run_is_resumed_though_its_key_is_missing() -> None:
    """All else can be read; the secret says which master key is wanted. If L3 cannot be asked, the run is let go of."""
    async with hall("a", master_keys=(OLD,)) as at:
        run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
        run.context["plain"] = 1
        await run.release()
        at.settings = msgspec.structs.replace(at.settings, master_keys=(NEW,))
        async with at.server("b") as other:
            resumed = await at.b.resume(RUN)
            assert resumed.context["plain"] == 1
            with pytest.raises(KeyMissing, match="master key old"):
                _ = resumed.context["token"]
            with pytest.raises(KeyMissing, match="master key old"):
                await at.b.begin("look", parent=resumed)
            with pytest.raises(KeyMissing, match="master key old"):
                await at.b.fork(RUN)
            await resumed.release()

            async def away(_: object) -> None:
                raise TierUnavailable("not now")

            other.keys.know = away  # type: ignore[assignment, method-assign]
            with pytest.raises(TierUnavailable):
                await at.b.resume(RUN)
            assert at.row().owner is None


async def test_a_fork_has_secrets_of_its_own() -> None:
    """From now, and from a snapshot."""
    async with hall("a", "b", master_keys=(OLD,)) as at:
        run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
        assert await run.checkpoint() == 1
        run.context["token"] = f"{MARK}-2"
        await run.complete()
        forget(at.servers["b"].keys)
        for snapshot, value in ((None, f"{MARK}-2"), (1, f"{MARK}-1")):
            fork = await at.b.fork(RUN, at=snapshot)
            assert fork.context["token"] == value
            await fork.release()
            assert (await at.a.resume(fork.id)).context["token"] == value
        assert MARK.encode() not in kept(at)


async def test_a_view_shows_no_secret() -> None:
    """Nor does a difference: they hold the sealed value, which can be opened in its place."""
    async with hall("a", master_keys=(OLD,)) as at:
        run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
        run.context["token"] = f"{MARK}-2"
        await run.save()
        view, difference = await at.a.get(RUN), await at.a.diff(RUN, 0)
        variable = view.state.variables["token"]
        assert type(variable.value) is Sealed
        assert MARK not in repr(view) + repr(difference)
        assert difference["variables"].changed["token"].after == variable
        assert opened(variable, RUN, at.servers["a"].keys.known) == f"{MARK}-2"


async def test_errors_of_steps_and_runs_are_masked() -> None:
    """Also where one run quotes what another has opened, and where the words come from the user."""
    async with hall("a", master_keys=(OLD,)) as at:
        run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
        child = await at.a.begin("look", run_id="child")
        with pytest.raises(KeyError, match=MARK):
            async with child.step("one"):
                raise KeyError(run.context["token"])
        await child.fail(f"denied: {MARK}-1")
        await run.fail(ValueError(f"no {run.context['token']}"))
        assert (at.row().error, at.row("child").error) == ("ValueError: no ***", "denied: ***")
        assert child.context.steps["one"].error == "KeyError: '***'"
        assert MARK.encode() not in kept(at)


async def lost_keys(at: Any) -> str:
    """L3 loses its data keys as by a restore of an older copy; returns the id of the one that was sealed with."""
    run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
    key_id: str = run.context.variable("token").value.key_id
    at.l3.log.marks = at.l3.log.marks._replace(data_keys={}, masters={})
    at.l3.crash()
    return key_id


async def test_a_key_that_l3_has_lost_is_given_back() -> None:
    """By a server that has it: what it seals from then on can be opened by others, also when it is gone."""
    async with hall("a", master_keys=(OLD,)) as at:
        key_id = await lost_keys(at)

        async def given_back() -> bool:
            return key_id in at.l3.log.marks.data_keys

        await until(given_back)
        run = await at.a.begin("search", secrets={"token": f"{MARK}-2"}, run_id="r2")
        await run.release()
        async with at.server("b"):
            assert (await at.b.resume("r2")).context["token"] == f"{MARK}-2"


async def test_without_giving_back_secrets_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: nobody looks after a new incarnation. A server that starts then cannot open what is sealed."""
    monkeypatch.setattr(KeyKeeper, "look", lambda _: None)
    async with hall("a", master_keys=(OLD,)) as at:
        key_id = await lost_keys(at)
        run = await at.a.begin("search", secrets={"token": f"{MARK}-2"}, run_id="r2")
        await run.release()
        async with at.server("b"):
            resumed = await at.b.resume("r2")
            with pytest.raises(KeyMissing, match=f"data key {key_id} is not in L3"):
                _ = resumed.context["token"]


async def test_giving_back_is_tried_again() -> None:
    """A fault of L3, or of this package, does not end the loop."""
    async with hall("a", master_keys=(OLD,)) as at:
        flows = at.servers["a"]
        faults, naps = [TierUnavailable("not now"), OSError("a fault of ours")], list[float]()
        give_back, asked = flows.keys.give_back, asyncio.Event()

        async def faulty() -> int:
            if faults:
                raise faults.pop(0)
            asked.set()
            return await give_back()

        async def nap(seconds: float) -> None:
            naps.append(seconds)

        flows.keys.give_back = faulty  # type: ignore[method-assign]
        flows.run_flows.key_keeper._sleep = nap
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        flows.run_flows.key_keeper.look()
        await asyncio.wait_for(asked.wait(), 30)
        assert naps == [RETRY_SECONDS] * 2
        await flows.run_flows.key_keeper.stop()
        await flows.run_flows.key_keeper.stop()


async def test_who_has_a_retired_master_key_gives_up_until_l3_is_another(caplog: pytest.LogCaptureFixture) -> None:
    """It would be refused each time: that is told once, and not tried again."""
    async with hall("a", master_keys=(OLD,)) as at:
        keeper = at.servers["a"].run_flows.key_keeper

        async def refused() -> int:
            raise KeyRetired("old")

        async def nap(_: float) -> None:
            pytest.fail("it is tried again")

        keeper._ring.give_back = refused  # type: ignore[method-assign]
        keeper._sleep = nap
        for times in (1, 2):
            keeper.look()

            async def told(times: int = times) -> bool:
                return caplog.text.count("data keys cannot be looked after by this server") == times

            await until(told)
            assert not keeper._wake.is_set()
        assert await keeper._done(keeper.put_right)


async def fell_back(at: Any) -> str:
    """L3 is as it was before a rotation, from which nobody has the older master key any more; returns the key's id."""
    run = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN)
    await run.release()
    (key,) = at.servers["a"].keys.known.known()
    rows = {key.id: wrapped_row(key, MasterKeys.read([OLD]), entropy())}
    at.l3.log.marks = at.l3.log.marks._replace(data_keys=rows, masters={"old": None})
    at.l3.crash()
    return str(key.id)


async def test_a_key_under_an_older_master_key_is_wrapped_anew() -> None:
    """By a server that has it: who starts afterwards, without that master key, can open what it has sealed."""
    async with hall("a", master_keys=(NEW,)) as at:
        key_id = await fell_back(at)

        async def wrapped_anew() -> bool:
            return at.l3.log.marks.data_keys[key_id].master_id == "new"

        await until(wrapped_anew)
        async with at.server("b"):
            assert (await at.b.resume(RUN)).context["token"] == f"{MARK}-1"
        assert [entry.note.subject for entry in at.l3.log.marks.audit] == ["master_key:old->new"]


async def test_without_wrapping_anew_secrets_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the row stays under the older master key, though a server has what is in it."""

    async def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(KeyRing, "rewrap", nothing)
    async with hall("a", master_keys=(NEW,)) as at:
        await fell_back(at)
        async with at.server("b"):
            resumed = await at.b.resume(RUN)
            with pytest.raises(KeyMissing, match="wrapped by the master key old"):
                _ = resumed.context["token"]


async def test_a_server_that_runs_finds_a_rotation() -> None:
    """When it looks, which it goes on doing whatever went wrong: what it seals then is sealed by a newer data key."""
    async with hall("a", master_keys=(NEW, OLD)) as at:
        flows, naps, over = at.servers["a"], list[float](), asyncio.Event()

        async def nap(seconds: float) -> None:
            naps.append(seconds)
            await over.wait()
            over.clear()

        keeper, before = KeyKeeper(flows.keys, flows.audit, nap), flows.keys.known.sealer
        keeper.start()
        await rotate(MemoryKeys(at.l3), MasterKeys.read([NEW, OLD]), entropy(), lambda _: None, audit=flows.audit)
        for times, away in ((2, True), (3, False)):

            async def looked(times: int = times) -> bool:
                return len(naps) == times

            at.l3.away = away
            over.set()
            await until(looked)
            assert (flows.keys.known.sealer is before) == away
        assert naps == [PERIOD_SECONDS] * 3
        await keeper.stop()


async def test_what_a_handler_raises_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """In the letters of events that were given up, and in logs of any level."""
    async with hall("a", master_keys=(OLD,), event_attempts_max=1) as at:
        run, bus = await at.a.begin("search", secrets={"token": f"{MARK}-1"}, run_id=RUN), at.servers["a"].bus

        async def refuse(_: object) -> None:
            raise ValueError(f"no {run.context['token']}")

        with caplog.at_level(logging.DEBUG, "holdfast"):
            await bus.subscribe("search/**", refuse, group="g").ready()
            await bus.publish("search/begun", {"run": RUN}, delivery=Delivery.RELIABLE)

            async def given_up() -> bool:
                return bool(await bus.dead_letters.list())

            await until(given_up)
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == "ValueError: no ***"
        assert "no ***" in caplog.text
        assert f"no {MARK}" not in caplog.text


async def test_ciphertext_of_a_row_that_somebody_has_moved_is_refused() -> None:
    """To another run's row, whole: its variables cannot be opened there."""
    async with hall("a", "b", master_keys=(OLD,)) as at:
        for run_id in ("r1", "r2"):
            run = await at.a.begin("search", run_id=run_id)
            run.context.set("token", f"{MARK}-{run_id}", sensitivity="secret")
            await run.save()
            await run.release()
        stolen: ContextChange = at.row("r1").changes[0]
        row: Run = msgspec.structs.replace(at.row("r2"), changes=[stolen])
        await at.servers["a"].store.collections["run"].put("r2", row)
        resumed = await at.b.resume("r2")
        with pytest.raises(SealBroken, match="run:r2, 'token'"):
            _ = resumed.context["token"]
