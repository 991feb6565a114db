"""Families of runs with secrets, over two servers, through all that can become of them: no secret is seen anywhere."""

from __future__ import annotations

import base64
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall
from fix_secrets import OLD
from holdfast import Consistency, Durability, Event, Swarm
from holdfast import Delivery as Guarantee
from holdfast.cli.reviews.outlines import heading, review_line, shown_review
from holdfast.cli.runs.outlines import difference_lines, run_line, shown_run
from holdfast.documents import Delivery, Review, Sealed
from holdfast.errors import HoldfastError
from holdfast.run_context import secrets as secrets_of_runs
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.delivering import DEAD
from holdfast.sensitivity.masking import Mask
from holdfast.store import StateStore

MARK = "qzvxwjkpbfgm"
"""In each secret, and in nothing else."""
CHILDREN = 20
OF_VALUES = {
    "cache in L1",
    "cache in L2",
    "differences",
    "errors",
    "journals in L2",
    "letters, keys and journals in L3",
    "merges",
    "reviews",
    "rows",
    "views",
}
"""Where values of variables are."""
OF_WORDS = {
    "command line",
    "contexts",
    "dead letters",
    "deliveries",
    "events in L2",
    "logs",
    "outbox of L3",
    "rows of L3",
}
"""Where words of errors are, which may quote values."""
PLACES = ("parent_context", "blackboard", "persistent_store")


def forms(mark: str) -> list[bytes]:
    """How a text may be written: as it is, in hexadecimal, and in Base64 wherever in it it begins."""
    inner = [base64.b64encode(b"\0" * shift + mark.encode())[4:-4] for shift in range(3)]
    return [mark.encode(), mark.encode().hex().encode(), *inner]


FORMS = forms(MARK)


def leaves(thing: Any, met: set[int]) -> Iterator[bytes]:
    """All texts and bytes within something: mappings, sequences, documents, and objects of Holdfast."""
    if isinstance(thing, str):
        yield thing.encode(errors="surrogatepass")
    elif isinstance(thing, bytes | bytearray):
        yield bytes(thing)
    elif id(thing) not in met:
        met.add(id(thing))
        for each in _within(thing):
            yield from leaves(each, met)


def _within(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Mapping):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from thing
    elif isinstance(thing, msgspec.Struct):
        yield from (getattr(thing, name) for name in thing.__struct_fields__)
    elif type(thing).__module__.startswith("holdfast"):
        slots = [name for each in type(thing).__mro__ for name in getattr(each, "__slots__", ())]
        yield from (getattr(thing, name, None) for name in slots)
        yield from getattr(thing, "__dict__", {}).values()


class Seen:
    """What was looked at, by the sort of place, and where a secret was found.

    Attributes:
        looked: how many texts of each sort there were.
        found: how many of them show a secret.
        events: that a server was told.
    """

    def __init__(self) -> None:
        self.looked: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.events: list[Event] = []

    def look(self, sort: str, *things: Any) -> None:
        """Look into things, and at their texts and `repr`."""
        for thing in things:
            for text in (*leaves(thing, set()), f"{thing!r} {thing}".encode(errors="surrogatepass")):
                self.looked[sort] += 1
                self.found[sort] += any(form in text for form in FORMS)

    def look_around(self, at: Hall) -> None:
        """Look into all tiers as they are at this moment."""
        self.look("rows of L3", at.l3.log.rows)
        self.look("letters, keys and journals in L3", at.l3.log.marks._replace(audit=()))
        self.look("outbox of L3", at.l3.log)
        self.look("audit log", at.l3.log.marks.audit)
        self.look("deliveries", at.l3.turns)
        self.look("cache in L2", at.l2._contents)
        self.look("journals in L2", at.hub)
        self.look("events in L2", at.events.contents)
        for server in at.servers.values():
            self.look("cache in L1", *server.caches.values())
            self.look("counters", server.counters)
            self.look("backlog", server.store.backlog())

    @asynccontextmanager
    async def refused(self) -> AsyncIterator[None]:
        """What is done here is refused by Holdfast, in words without a secret."""
        with pytest.raises(HoldfastError) as caught:
            yield
        fault: BaseException | None = caught.value
        while isinstance(fault, HoldfastError):
            self.look("errors", fault, fault.args)
            fault = fault.__cause__

    @property
    def places(self) -> set[str]:
        """Where there are secrets."""
        return {sort for sort, count in self.found.items() if count}


class Story:
    """A parent and its children.

    Attributes:
        heard: the secrets that the exporter and the handler quote when they fail.
    """

    def __init__(self, at: Hall, seen: Seen) -> None:
        self.at = at
        self.seen = seen
        self.heard = ""

    @property
    def b(self) -> StateStore:
        """The door of server b."""
        return self.at.servers["b"].store

    async def begin(self) -> None:
        """A parent with a secret of its own, and one that others will contradict."""
        await self.b.swarms.put("swarm1", Swarm())
        for server in self.at.servers.values():
            server.store.subscribe("**", self.seen.events.append)
        self.parent: ActiveRun = await self.at.a.begin(
            "search", run_id=RUN, swarm_id="swarm1", secrets={"token": f"{MARK}-token"}, on_conflict="manual_review"
        )
        self.parent.context.set("shared", {f"{MARK}-name": [f"{MARK}-old"]}, sensitivity="pii")
        await self.parent.checkpoint()
        self.seen.look_around(self.at)

    async def have_children(self) -> None:
        """Some fail, the others export what they have, everywhere; each third contradicts its parent."""
        for number in range(CHILDREN):
            child = await self.at.a.begin("look", parent=self.parent, run_id=f"c{number:02}", critical=number % 2 == 0)
            assert child.context["token"] == f"{MARK}-token"
            await self._work(child, number)
            self.seen.look("contexts", repr(child.context), child.context.state, child.context.variables)
        self.parent.context.set("shared", f"{MARK}-parent", sensitivity="pii")

    async def _work(self, child: ActiveRun, number: int) -> None:
        own = f"own{number}"
        self.heard = f"{MARK}-{number}"
        child.context.set(own, self.heard, sensitivity=("secret", "pii")[number % 2])
        with pytest.raises(ValueError, match=MARK):
            await self._fail(child)
        child.context["plain"] = number
        if number % 3 == 0:
            child.context.set("shared", [f"{MARK}-{number}", b"x"], sensitivity="pii")
        for key in (own, "token", "shared", "plain"):
            for place in PLACES:
                child.context.mark_for_export(key, place)
            child.context.mark_for_export(key, "external_system", exporter="crm")
        if number % 10 == 9:
            await child.fail(KeyError(self.heard))
            return
        await child.complete()
        self.seen.look("rows", self.at.row(child.id), self.at.row(child.id).refused_exports)

    async def _fail(self, child: ActiveRun) -> None:
        async with child.step("one"):
            raise ValueError(f"{self.heard} is wrong, and so is {child.context['shared']!r}")

    async def merge(self) -> None:
        """By reviews, which server b decides each in another way."""
        assert (await self.parent.merge_children()).needs_review
        while True:
            listed = await self.b.reviews.list()
            self.seen.look("reviews", listed)
            for each in listed:
                lines = review_line(each.id, each.review), shown_review(each.id, each.review)
                self.seen.look("command line", *lines, *heading(lines[1]))
                await self._decide(each.id, each.review)
            merge = await self.parent.merge_children()
            self.seen.look("merges", merge, merge.resolutions)
            if merge.waits_for is None:
                break
        await self.parent.checkpoint()
        assert self.parent.context["own1"] == f"{MARK}-1"
        assert self.parent.context["shared"] == [f"{MARK}-decided"]

    async def _decide(self, name: str, review: Review) -> None:
        choices: list[dict[str, Any]] = [{"choice": "child"}]
        if review.variable == "shared":
            choices = [{"choice": "parent"}, {"choice": "child"}, {"value": [f"{MARK}-decided"]}]
        what = choices[int(review.child_run_id[1:]) // 3 % len(choices)]
        self.seen.look("reviews", await self.b.reviews.resolve(name, by="ada", reason="she knows", **what))

    async def show(self) -> None:
        """What commands show of it: the run, its history, and one secret to who says why."""
        value = await self.b.runs.reveal(RUN, "token", by="ada", reason="an audit")
        assert value == f"{MARK}-token"
        view = await self.b.runs.get(RUN, consistency=Consistency.STRONG)
        assert view is not None
        self.seen.look("views", view)
        lines = run_line(RUN, view.run), shown_run(RUN, view.run, view.state, at=None, most=100)
        difference = await self.b.runs.diff(RUN, 0)
        self.seen.look("command line", *lines, *difference_lines(difference))
        self.seen.look("differences", difference)
        for name in ("c00", "c09"):
            child = await self.b.runs.get(name, consistency=Consistency.STRONG)
            assert child is not None
            self.seen.look("command line", run_line(name, child.run))
            self.seen.look("command line", shown_run(name, child.run, child.state, at=None, most=100))

    async def deliver(self) -> None:
        """What fails quotes what it has; it is given up."""
        worker = self.at.servers["a"].run_flows.delivery_worker
        while await worker.deliver_due():
            pass
        dead = await self.b.deliveries.list(dead=True)
        assert [each.key for each in dead] == ["plain"] * 18

        async def told() -> bool:
            return any(event.type == DEAD for event in self.seen.events)

        await until(told)
        self.seen.look("command line", *dead)
        await self.b.deliveries.discard(dead[0].id, actor="ada", reason="of no use")

    async def export(self, delivery: Delivery, _: str) -> None:
        """Fail, quoting a secret that this server has opened."""
        self.seen.look("deliveries", delivery)
        raise ConnectionError(f"{delivery.value} is refused: {self.heard}")

    async def tell(self) -> None:
        """A handler that fails quotes a secret too; its event becomes a dead letter."""
        bus = self.at.servers["a"].bus

        async def refuse(_: object) -> None:
            raise ValueError(f"no {self.heard}")

        await bus.subscribe("search/**", refuse, group="g").ready()
        await bus.publish("search/begun", {"run": RUN}, delivery=Guarantee.RELIABLE)

        async def given_up() -> bool:
            return bool(await bus.dead_letters.list())

        await until(given_up)
        self.seen.look("dead letters", await bus.dead_letters.list())

    async def be_refused(self) -> None:
        """What cannot be a secret, or cannot be opened, is told without it."""
        context = self.parent.context
        for value in (f"{MARK}\0", {f"{MARK}\0": 1}, {MARK: object()}, f"{MARK}" * 200_000):
            async with self.seen.refused():
                context.set("bad", value, sensitivity="secret")
        context.set("fixed", f"{MARK}-fixed", sensitivity="secret", mutable=False)
        async with self.seen.refused():
            context["fixed"] = f"{MARK}-other"
        for value in (f"{MARK}\0", {f"{MARK}\0": 1}, {MARK: object()}):
            async with self.seen.refused():
                await self.at.a.begin("look", secrets={"bad": value})
        await self.parent.save()
        taken = await self.b.runs.resume(RUN, force=True)
        context.set("late", f"{MARK}-late", sensitivity="secret")
        async with self.seen.refused():
            await self.parent.save()
        stolen = taken.context.variable("token")
        moved = msgspec.structs.replace(stolen, key="other")
        if type(stolen.value) is Sealed:
            async with self.seen.refused():
                secrets_of_runs.opened(moved, RUN, self.at.servers["b"].keys.known)
        await taken.complete()

    async def be_given_up(self) -> None:
        """An accepted write that L3 refuses becomes a dead letter, with all that it was to do."""
        run = await self.at.a.begin("search", run_id="refused")
        run.context.set("late", f"{MARK}-late", sensitivity="secret")
        receipt = await run.save(Durability.JOURNALED)
        assert receipt is not None
        rules = self.at.l3._rules
        self.at.l3._rules = rules._replace(refuses=lambda key, _: key.id == "refused")
        await self.at.servers["a"].write_behind.flush()
        async with self.seen.refused():
            await receipt.reached(Durability.COMMITTED)
        self.at.l3._rules = rules
        letters = await self.b.dead_writes.list()
        assert [str(each.key) for each in letters] == ["run:refused"]
        self.seen.look("dead letters", letters)
        async with self.seen.refused():
            await run.complete()
        await run.complete()


async def lived(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    """All of it, looked at from everywhere after each part."""
    settings: dict[str, Any] = {
        "master_keys": (OLD,),
        "delivery_attempts_max": 1,
        "event_attempts_max": 1,
        "write_behind_quiet_seconds": 60.0,  # what is journaled is there to be looked at, however busy the machine
        "write_behind_age_seconds": 60.0,
    }
    with caplog.at_level(logging.DEBUG):
        async with hall("b", **settings) as at:
            story = Story(at, seen)
            async with at.server("a", exporters={"crm": story.export}):
                parts: list[Callable[[], Any]] = [
                    story.begin,
                    story.have_children,
                    story.merge,
                    story.show,
                    story.deliver,
                    story.tell,
                    story.be_refused,
                    story.be_given_up,
                ]
                for part in parts:
                    await part()
                    seen.look_around(at)
                await at.servers["a"].write_behind.flush()
                seen.look_around(at)
    seen.look("events", *seen.events)
    for record in caplog.records:
        seen.look("logs", record.getMessage(), record.__dict__.get("exc_text"), record.args)


async def test_no_secret_is_seen_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    """In no tier, event, log, counter, audit entry, error, view, difference or line of a command."""
    seen = Seen()
    await lived(seen, caplog)
    assert not seen.places, f"secrets are in {seen.places}"
    assert min(seen.looked.values()) > 0
    told = {event.type for event in seen.events}
    assert told >= {DEAD, "routine/branch/merged", "routine/branch/conflict", "routine/review/resolved"}


def seals_nothing(patch: pytest.MonkeyPatch) -> None:
    """No variable counts as secret."""
    patch.setattr(secrets_of_runs, "is_secret", lambda *_: False)


def masks_nothing(patch: pytest.MonkeyPatch) -> None:
    """Texts are recorded as they are."""
    patch.setattr(Mask, "masked", lambda _, text: text)


@pytest.mark.parametrize(("mutant", "places"), [(seals_nothing, OF_VALUES | OF_WORDS), (masks_nothing, OF_WORDS)])
async def test_without_a_mechanism_the_same_search_finds_them(
    mutant: Callable[[pytest.MonkeyPatch], None],
    places: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without sealing in each place that has values or quotes them; without masking where words are."""
    mutant(monkeypatch)
    seen = Seen()
    await lived(seen, caplog)
    assert not places - seen.places, "it was found elsewhere, but not there"
