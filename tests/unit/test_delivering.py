"""Deliveries are brought out by whoever can, tried again, and given up in the end; none is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import RUN, hall
from holdfast import Swarm
from holdfast.documents import Delivery, encode
from holdfast.errors import InvalidKey, SettingsError
from holdfast.keys import Key
from holdfast.metrics.counters import DeliveryCounters, RecoveryCounters
from holdfast.node import connect
from holdfast.protocols import Write
from holdfast.recovery.reports import FaultReports
from holdfast.run_context import delivering
from holdfast.run_context.deliveries import Deliveries
from holdfast.run_context.delivering import DEAD, LEASE_MARGIN_SECONDS, DeliveryRules, DeliveryWorker
from holdfast.run_context.exports import Exporter
from holdfast.testing import ManualClock, MemoryDeliveries, MemoryStorage

RULES = DeliveryRules(attempts_max=3, timeout_seconds=30.0)


class Place:
    """An L3 with deliveries, and workers over it.

    Attributes:
        brought: id and idempotency key of each call of the exporter.
        fails: what it does.
    """

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.clock = ManualClock()
        self.queue = MemoryDeliveries(self.storage, self.clock)
        self.counters = DeliveryCounters()
        self.brought: list[tuple[Any, str]] = []
        self.told: list[tuple[str, Any]] = []
        self.fails: Exception | None = None
        self.faults = FaultReports(self.clock.monotonic, RecoveryCounters())

    async def put(self, *names: str) -> None:
        """As runs that complete do."""
        for name in names:
            body = encode(Delivery(run_id="r1", routine_id="search", key="x", value=name, exporter="crm"))
            await self.storage.save([Write(Key("delivery", name), 1, body)])

    async def export(self, delivery: Delivery, key: str) -> None:
        """Bring one out."""
        self.brought.append((delivery.value, key))
        if self.fails is not None:
            raise self.fails

    def worker(self, exporters: Mapping[str, Exporter] | None = None, rules: DeliveryRules = RULES) -> DeliveryWorker:
        """One server's."""
        return DeliveryWorker(
            self.queue,
            {"crm": self.export} if exporters is None else exporters,
            rules,
            self.counters,
            sleep=asyncio.sleep,
            random_=random.Random(1),
            masked=lambda text: text,
            announce=lambda topic, data: self.told.append((topic, data)),
            faults=self.faults,
        )

    async def left(self) -> list[tuple[str, int, bool, str | None]]:
        """What is not brought out."""
        return [(row.id, row.attempts, row.dead, row.error) for row in await self.queue.list(limit=100)]


async def test_what_is_due_is_brought_out_once() -> None:
    """And is gone then."""
    at = Place()
    await at.put("a", "b")
    assert await at.worker().deliver_due() == 2
    assert await at.worker().deliver_due() == 0
    assert [value for value, _ in at.brought] == ["a", "b"]
    assert (await at.left(), at.counters.delivered) == ([], 2)


async def test_what_fails_is_tried_again_later_and_given_up_in_the_end() -> None:
    """Each time later, under the same idempotency key; a dead one is told, and kept until a person decides."""
    at = Place()
    await at.put("a")
    at.fails = ConnectionError("no route")
    worker, waits = at.worker(), []
    for _ in range(RULES.attempts_max):
        assert await worker.deliver_due() == 1
        (row,) = await at.queue.list(limit=1)
        waits.append(row.wait_seconds)
        assert await worker.deliver_due() == 0
        at.clock.advance(row.wait_seconds + 0.001)
    assert waits[0] < waits[1]
    assert await at.left() == [("a", 3, True, "ConnectionError: no route")]
    assert at.told == [(DEAD, {"id": "a", "attempts": 3})]
    assert (at.counters.failures, at.counters.dead) == (2, 1)
    at.clock.advance(100_000)
    assert await worker.deliver_due() == 0
    at.fails = None
    assert await Deliveries(at.queue, actor="a").retry("a")
    assert await worker.deliver_due() == 1
    assert await at.left() == []
    assert len({key for _, key in at.brought}) == 1


async def test_one_that_fails_holds_up_no_other() -> None:
    """Each has its own fate."""
    at = Place()
    await at.put("a", "b", "c")

    async def picky(delivery: Delivery, _: str) -> None:
        if delivery.value == "b":
            raise ValueError("not this one")

    await at.worker({"crm": picky}).deliver_due()
    assert await at.left() == [("b", 1, False, "ValueError: not this one")]


async def test_an_exporter_that_stands_still_is_given_up() -> None:
    """After its time; that is an attempt that failed."""
    at = Place()
    await at.put("a")

    async def stuck(_: Delivery, __: str) -> None:
        await asyncio.Event().wait()

    await at.worker({"crm": stuck}, DeliveryRules(3, 0.01)).deliver_due()
    assert await at.left() == [("a", 1, False, "it took longer than 0.01 s")]


async def test_a_timeout_of_the_exporter_itself_is_told_as_its_own() -> None:
    """It had all its time still."""
    at = Place()
    await at.put("a")
    at.fails = TimeoutError("the crm did not answer")
    await at.worker().deliver_due()
    assert await at.left() == [("a", 1, False, "TimeoutError: the crm did not answer")]


async def test_an_exporter_whose_own_task_was_cancelled_has_failed() -> None:
    """At once, and not when its lease is over; a worker that is stopped is no failure."""
    at = Place()
    await at.put("a")
    begun = asyncio.Event()

    async def waits(_: Delivery, __: str) -> None:
        begun.set()
        other = asyncio.ensure_future(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    assert await at.worker({"crm": waits}).deliver_due() == 1
    assert await at.left() == [("a", 1, False, "what it waited for was cancelled")]

    async def stuck(_: Delivery, __: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    at.clock.advance(1000)
    begun.clear()
    worker = at.worker({"crm": stuck})
    worker.start()
    await begun.wait()
    await worker.stop()
    assert await at.left() == [("a", 1, False, "what it waited for was cancelled")]
    assert at.counters.failures == 1


async def test_no_number_of_restarts_gives_a_delivery_up() -> None:
    """An attempt that the end of a server breaks off is none, and the next server need not wait for its lease."""
    at = Place()
    await at.put("a", "b")
    begun = asyncio.Semaphore(0)

    async def stuck(_: Delivery, __: str) -> None:
        begun.release()
        await asyncio.Event().wait()

    for _ in range(RULES.attempts_max + 1):
        worker = at.worker({"crm": stuck})
        worker.start()
        await begun.acquire()
        await begun.acquire()
        await worker.stop()
        assert await at.left() == [("a", 0, False, None), ("b", 0, False, None)]
    assert await at.worker().deliver_due() == 2
    assert await at.left() == []


@pytest.mark.parametrize("is_mute", [False, True], ids=["away", "mute"])
async def test_an_end_that_l3_does_not_hear_of_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_mute: bool
) -> None:
    """For long; the attempt counts then, as that of a server that dies, and the lease ends by itself."""
    monkeypatch.setattr(delivering, "BREAK_OFF_SECONDS", 0.01)
    at = Place()
    await at.put("a")
    begun = asyncio.Event()

    async def stuck(_: Delivery, __: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    worker = at.worker({"crm": stuck})
    worker.start()
    await begun.wait()
    if is_mute:
        monkeypatch.setattr(at.queue, "broken_off", lambda _: asyncio.Event().wait())
    at.storage.away = not is_mute
    await worker.stop()
    at.storage.away = False
    assert await at.left() == [("a", 1, False, None)]
    assert "L3 did not hear that it was broken off" in caplog.text
    assert await at.worker().deliver_due() == 0
    at.clock.advance(RULES.timeout_seconds + LEASE_MARGIN_SECONDS + 0.001)
    assert await at.worker().deliver_due() == 1


class Unprintable(Exception):
    """Of a system that has no words."""

    def __str__(self) -> str:
        raise RuntimeError("it cannot be told")

    __repr__ = __str__


async def test_an_error_that_cannot_be_told_is_one_all_the_same() -> None:
    """It is recorded by its type, and the delivery tried again."""
    at = Place()
    await at.put("a")
    at.fails = Unprintable()
    await at.worker().deliver_due()
    assert await at.left() == [("a", 1, False, "Unprintable")]
    at.clock.advance(1000)
    at.fails = None
    assert await at.worker().deliver_due() == 1
    assert await at.left() == []


async def test_two_servers_bring_none_out_at_once() -> None:
    """While one is at it the others leave it alone; one that died over it is followed when the lease is over."""
    at = Place()
    await at.put("a")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Delivery, __: str) -> None:
        begun.set()
        await go_on.wait()

    first = asyncio.ensure_future(at.worker({"crm": slow}).deliver_due())
    await begun.wait()
    assert await at.worker().deliver_due() == 0
    at.storage.away = True  # so that nobody hears of its end
    first.cancel()
    await asyncio.wait([first])
    at.storage.away = False
    assert await at.worker().deliver_due() == 0
    at.clock.advance(RULES.timeout_seconds + LEASE_MARGIN_SECONDS + 0.001)
    assert await at.worker().deliver_due() == 1
    assert await at.left() == []


async def test_a_retry_during_an_attempt_calls_nobody_twice_at_once() -> None:
    """It is due when that attempt has failed, with all its attempts, though that was the last."""
    at = Place()
    await at.put("a")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Delivery, __: str) -> None:
        begun.set()
        await go_on.wait()
        raise ConnectionError("no route")

    first = asyncio.ensure_future(at.worker({"crm": slow}, DeliveryRules(1, 30.0)).deliver_due())
    await begun.wait()
    assert await Deliveries(at.queue, actor="a").retry("a")
    assert await at.worker().deliver_due() == 0
    go_on.set()
    await first
    assert (await at.left(), at.told) == ([("a", 0, False, "ConnectionError: no route")], [])
    assert await at.worker().deliver_due() == 1
    assert await at.left() == []


async def test_while_l3_is_away_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And again when it was back in between; not with each attempt."""
    monkeypatch.setattr(delivering, "POLL_SECONDS", 0.001)
    at, rounds = Place(), asyncio.Semaphore(0)
    claim = at.queue.claim

    async def counted(*exporters: Any, **how: Any) -> Any:
        rounds.release()
        return await claim(*exporters, **how)

    monkeypatch.setattr(at.queue, "claim", counted)
    worker = at.worker()
    worker.start()
    for away in (True, False, True):
        at.storage.away = away
        for _ in range(5):
            await rounds.acquire()
    await worker.stop()
    assert caplog.text.count("cannot be told") == 2


async def test_one_that_each_server_dies_over_is_given_up() -> None:
    """An attempt of which nobody has heard counts too."""
    at = Place()
    await at.put("a")
    for _ in range(RULES.attempts_max):
        await at.queue.claim(["crm"], limit=1, lease_seconds=1.0)
        at.clock.advance(1.001)
    await at.worker().deliver_due()
    assert (at.brought, await at.left()) == ([], [("a", 4, True, "no attempt has come to its end")])


async def test_what_cannot_be_read_is_given_up_too() -> None:
    """It is listed, and can be discarded."""
    at = Place()
    await at.storage.save([Write(Key("delivery", "a"), 1, b'{"exporter": "crm"}')])
    worker = at.worker()
    for _ in range(RULES.attempts_max):
        await worker.deliver_due()
        at.clock.advance(1000)
    deliveries = Deliveries(at.queue, actor="a")
    (listed,) = await deliveries.list(dead=True)
    assert (listed.id, listed.run_id, listed.dead) == ("a", "", True)
    assert await deliveries.discard("a")
    assert await at.left() == []


async def test_while_l3_is_away_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on when L3 is back; what nobody heard the end of is made again."""
    at = Place()
    await at.put("a")

    async def leaves(delivery: Delivery, key: str) -> None:
        await at.export(delivery, key)
        at.storage.away = len(at.brought) == 1

    worker = at.worker({"crm": leaves})
    await worker.deliver_due()
    assert "made again" in caplog.text
    at.storage.away = False
    at.clock.advance(1000)
    await worker.deliver_due()
    assert len(at.brought) == 2
    assert len(set(at.brought)) == 1
    assert await at.left() == []


async def test_what_is_done_by_hand_is_recorded() -> None:
    """By whom and why, in the transaction that does it; what cannot be a record is not done."""
    at = Place()
    await at.put("a")
    deliveries = Deliveries(at.queue, actor="a server")
    with pytest.raises(InvalidKey):
        await deliveries.discard("a", reason="")
    assert await deliveries.retry("a", actor="ada", reason="it is up again")
    assert await deliveries.discard("a")
    assert [
        (entry.note.action, entry.note.subject, entry.note.actor, entry.note.reason)
        for entry in at.storage.log.marks.audit
    ] == [
        ("replayed", "delivery:a", "ada", "it is up again"),
        ("discarded", "delivery:a", "a server", "by hand"),
    ]


async def test_what_nobody_takes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """By any server that brings out others, once; and again after somebody took it in between."""
    at = Place()
    await at.put("a", "b")
    mail = at.worker({"mail": at.export})
    await mail.look_for_neglected()
    for seconds, warnings in ((delivering.NEGLECTED_SECONDS - 1.0, 0), (2.0, 1), (1.0, 1)):
        at.clock.advance(seconds)
        await mail.look_for_neglected()
        assert caplog.text.count("no server has the exporter 'crm'") == warnings
    assert at.counters.neglected == 2
    assert await at.worker().deliver_due() == 2
    await mail.look_for_neglected()
    assert at.counters.neglected == 0
    await at.put("c")
    await mail.look_for_neglected()
    at.clock.advance(delivering.NEGLECTED_SECONDS + 1.0)
    await mail.look_for_neglected()
    assert caplog.text.count("no server has the exporter 'crm'") == 2


async def test_that_is_looked_for_in_the_background(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after L3 was away; a server without exporters does not look."""
    monkeypatch.setattr(delivering, "NEGLECTED_SECONDS", 0.001)
    at = Place()
    await at.put("a")
    assert await at.left() == [("a", 0, False, None)]
    at.clock.advance(1.0)
    at.storage.away = True
    worker, idle = at.worker({"mail": at.export}), at.worker({})
    idle.start()
    worker.start()

    async def logged(text: str) -> bool:
        return text in caplog.text

    await until(lambda: logged("will be asked again"))
    at.storage.away = False
    await until(lambda: logged("no server has the exporter 'crm'"))
    await worker.stop()
    assert idle._loops == []


async def test_it_works_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """From start to stop, whatever fails; more than are brought out at once follow without a pause."""
    monkeypatch.setattr(delivering, "POLL_SECONDS", 0.001)
    at = Place()
    names = [f"d{number:02}" for number in range(20)]
    await at.put(*names)
    at.storage.away = True
    worker = at.worker()
    worker.start()
    await asyncio.sleep(0)
    at.storage.away = False

    async def all_out() -> bool:
        return not await at.left()

    await until(all_out)
    await worker.stop()
    await worker.stop()
    assert [value for value, _ in at.brought] == names


async def test_one_that_stands_still_holds_up_no_other_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each brings out its own."""
    monkeypatch.setattr(delivering, "POLL_SECONDS", 0.001)
    at = Place()
    await at.put("a")
    begun = asyncio.Event()

    async def stuck(_: Delivery, __: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    worker = at.worker({"mail": at.export, "crm": stuck})
    worker.start()
    await begun.wait()
    body = encode(Delivery(run_id="r1", routine_id="search", key="x", value="b", exporter="mail"))
    await at.storage.save([Write(Key("delivery", "b"), 1, body)])

    async def out() -> bool:
        return [value for value, _ in at.brought] == ["b"]

    await until(out)
    await worker.stop()
    assert [name for name, *_ in await at.left()] == ["a"]


async def test_a_run_exports_to_a_system_outside(caplog: pytest.LogCaptureFixture) -> None:
    """The whole way: from the declaration on one server, which says that it has none, to the exporter of another."""
    brought: list[Any] = []

    async def crm(delivery: Delivery, key: str) -> None:
        brought.append((delivery.run_id, delivery.key, delivery.value, key))

    async with hall("a") as at, at.server("b", exporters={"crm": crm}) as other:
        await at.servers["a"].store.swarms.put("swarm1", Swarm())
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        run.context.mark_for_export("x", "external_system", exporter="crm")
        assert "by crm, which this server has not" in caplog.text
        await run.complete()
        birth = at.l3.log.rows[Key("delivery", f"{RUN}/crm/x")].birth
        assert [each.id for each in await at.servers["a"].store.deliveries.list()] == [f"{RUN}/crm/x"]
        await other.run_flows.delivery_worker.deliver_due()
        assert brought == [(RUN, "x", 1, f"{RUN}/crm/x@{birth}")]
        assert await at.servers["a"].store.deliveries.list() == []


@pytest.mark.parametrize("names", [{"a b": print}, {"": print}, {"crm": "print"}])
def test_what_cannot_be_named_or_called_is_refused(names: dict[str, Any]) -> None:
    """At once, and not when the first run completes."""
    with pytest.raises(SettingsError):
        connect(exporters=names)
    with pytest.raises(SettingsError):
        connect(transformations=names)
