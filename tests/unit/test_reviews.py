"""Reviews on servers in memory: opened once, decided once, told to whoever waits, swept by anybody."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from fix_events import Notes
from fix_races import until
from fix_reviews import CHILD, PARENT
from fix_run_servers import Hall, hall
from holdfast.audit.chain import AuditNote
from holdfast.decisions.log_once import TEXTS_MAX, LogOnce
from holdfast.decisions.sweeper import OverdueSweeper
from holdfast.documents import ContextVariable, Review, decode, encode
from holdfast.errors import (
    InvalidDocument,
    InvalidKey,
    KeyMissing,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    ReviewSettled,
    RowRefused,
    SerializationFailure,
    SettingsError,
    StorageFull,
    StorageNotReady,
    TierError,
    TierUnavailable,
)
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Isolation
from holdfast.reviews.reviewer import MergeReviewer
from holdfast.reviews.reviews import Reviews
from holdfast.run_context.active_run import ActiveRun
from holdfast.testing.memory_transaction import MemoryTransaction

ID = "r1/c1/site"
HOUR = 3600.0


def reviewer(flows: Flows, **how: Any) -> MergeReviewer:
    """One of a run on a server."""
    return MergeReviewer(flows.run_flows.reviews, flows.run_flows.review_changes, 1, **how)


async def begin(shared: Hall, run_id: str = "r1") -> ActiveRun:
    """Begin a run, whose merges ask."""
    run: ActiveRun = await shared.a.begin("search", run_id=run_id)
    return run


async def opened(shared: Hall, child: ContextVariable = CHILD, parent: ContextVariable | None = PARENT) -> None:
    """Begin a run on server a, and open a review of it."""
    if Key("run", "r1") not in shared.l3.log.rows:
        await begin(shared)
    assert await reviewer(shared.servers["a"]).settle("r1", "c1", parent, child) is None


def stored(shared: Hall) -> Review:
    """The review as L3 has it."""
    return decode(Review, shared.l3.log.rows[Key("review", ID)].body)


def entries(shared: Hall) -> list[AuditNote]:
    """What the audit log says."""
    return [entry.note for entry in shared.l3.log.marks.audit]


async def wait_for(reviewer: MergeReviewer) -> Any:
    """What a merge does: ask, and wait until it may be worth asking again."""
    while (settled := await reviewer.settle("r1", "c1", PARENT, CHILD)) is None:
        await reviewer.changed()
    return settled


async def test_a_conflict_has_one_review() -> None:
    """However often, and on whichever server, it is asked for."""
    async with hall() as shared:
        await opened(shared)
        first = stored(shared)
        assert await reviewer(shared.servers["b"]).settle("r1", "c1", PARENT, CHILD) is None
        assert stored(shared) == first
        (listed,) = await shared.servers["b"].store.reviews.list()
        assert (listed.id, listed.review) == (ID, first)


async def test_what_is_too_large_to_be_reviewed_is_decided_at_once() -> None:
    """By the fallback, with one record however often it is met: the review is there, without the values."""
    async with hall(review_fallback="child_wins") as shared:
        await begin(shared)
        large = msgspec.structs.replace(CHILD, value="x" * 600_000)
        both = [reviewer(flows).settle("r1", "c1", PARENT, large) for flows in shared.servers.values()]
        for settled in [
            *await asyncio.gather(*both),
            await reviewer(shared.servers["b"]).settle("r1", "c1", None, large),
        ]:
            assert settled is not None
            assert settled.variable == large
            assert "too large to be reviewed; child_wins" in settled.reason
        (note,) = entries(shared)
        assert (note.subject, note.reason) == (f"review:{ID}", "both values together are too large to be reviewed")
        assert (stored(shared).choice, stored(shared).resolved_by) == ("fallback", note.actor)
        assert (stored(shared).child.value, stored(shared).child.clock) == (None, CHILD.clock)
        with pytest.raises(ReviewSettled, match="for: fallback"):
            await shared.servers["a"].store.reviews.resolve(ID, choice="parent", by="ada", reason="why")


async def test_what_is_not_too_large_can_be_decided_in_any_way() -> None:
    """By the largest value, too."""
    async with hall("a") as shared:
        sides = [msgspec.structs.replace(side, value={side.key: "x" * 250_000}) for side in (PARENT, CHILD)]
        await opened(shared, sides[1], sides[0])
        await shared.servers["a"].store.reviews.resolve(ID, value="y" * 65_000, by="ada", reason="why")


async def test_a_decision_of_a_later_version_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The merge waits for a server that knows it."""
    async with hall("a") as shared:
        await opened(shared)
        await shared.servers["a"].store.reviews.resolve(ID, choice="child", by="ada", reason="why")
        row = shared.l3.log.rows[Key("review", ID)]
        later = encode(msgspec.structs.replace(stored(shared), choice="neither"))
        shared.l3.log.rows[Key("review", ID)] = msgspec.structs.replace(row, body=later, version=row.version + 1)
        for _ in range(3):
            assert await reviewer(shared.servers["a"]).settle("r1", "c1", PARENT, CHILD) is None
        assert caplog.text.count(f"review {ID} is resolved for neither, which this version does not know") == 1


async def test_only_the_merge_that_waits_for_a_review_is_woken() -> None:
    """A server may have hundreds that wait; and one that is no more is told nothing."""
    async with hall("a") as shared:
        flows = shared.servers["a"]
        await begin(shared)
        merges = [reviewer(flows, patience_seconds=0.05) for _ in range(2)]
        for number, merge in enumerate(merges):
            assert await merge.settle("r1", f"c{number}", PARENT, CHILD) is None
        assert await flows.feed.refresh()
        for merge in merges:
            merge._told.clear()  # of their opening
        await flows.store.reviews.resolve("r1/c1/site", choice="child", by="ada", reason="why")
        assert await flows.feed.refresh()
        assert [merge._told.is_set() for merge in merges] == [False, True]
        del merge, merges
        assert len(flows.run_flows.review_changes._reviewers) == 0


async def test_of_two_servers_that_open_it_at_once_one_does() -> None:
    """The other takes what is there."""
    async with hall() as shared:
        await begin(shared)
        both = [reviewer(flows).settle("r1", "c1", PARENT, CHILD) for flows in shared.servers.values()]
        assert await asyncio.gather(*both) == [None, None]
        assert len(await shared.servers["a"].store.reviews.list()) == 1


async def test_a_decision_on_one_server_reaches_the_merge_on_another() -> None:
    """By the change feed: nothing waits until its patience is over."""
    async with hall() as shared, asyncio.timeout(20):
        await begin(shared)
        merge = asyncio.ensure_future(wait_for(reviewer(shared.servers["a"], patience_seconds=1000.0)))

        async def is_open() -> bool:
            return Key("review", ID) in shared.l3.log.rows

        await until(is_open)
        await shared.servers["b"].store.reviews.resolve(ID, choice="child", by="ada", reason="she knows")
        settled = await merge
        assert (settled.variable, settled.reason) == (CHILD, "resolved by ada: she knows")


class Forgetful(MergeReviewer):
    """Mutant: waits for what is told from now on."""

    async def changed(self) -> None:
        self._told.clear()
        await super().changed()


@pytest.mark.parametrize(("of", "remembers"), [(MergeReviewer, True), (Forgetful, False)])
async def test_a_decision_between_the_question_and_the_wait_is_not_missed(
    of: type[MergeReviewer],
    remembers: bool,  # noqa: FBT001
) -> None:
    """Though it was told when nobody waited. In the end whoever waits asks again in any case."""
    async with hall() as shared:
        flows = shared.servers["a"]
        await begin(shared)
        merge = of(flows.run_flows.reviews, flows.run_flows.review_changes, 1, patience_seconds=0.2)
        assert await merge.settle("r1", "c1", PARENT, CHILD) is None
        assert await flows.feed.refresh()
        merge._told.clear()  # of its opening
        await shared.servers["a"].store.reviews.resolve(ID, choice="child", by="ada", reason="she knows")
        assert await shared.servers["a"].feed.refresh()
        waiting = asyncio.ensure_future(merge.changed())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done() is remembers
        await waiting  # in the end in any case
        assert await merge.settle("r1", "c1", PARENT, CHILD) is not None


async def test_a_decision_is_recorded_with_it_or_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who, why and what, without the values; if the log cannot be written the review stays open."""
    async with hall() as shared:
        await opened(shared)
        state = shared.servers["b"].store

        async def refuse(_self: MemoryTransaction, note: AuditNote) -> None:
            raise TierUnavailable(f"L3: no room for {note.action}")

        with monkeypatch.context() as full:
            full.setattr(MemoryTransaction, "audit", refuse)
            with pytest.raises(TierUnavailable):
                await state.reviews.resolve(ID, choice="child", by="ada", reason="she knows")
        assert (stored(shared).status, entries(shared)) == ("open", [])
        done = await state.reviews.resolve(ID, choice="child", by="ada", reason="she knows")
        assert stored(shared) == done
        detail = '{"run":"r1","child":"c1","variable":"site","status":"resolved","choice":"child"}'
        assert entries(shared) == [
            AuditNote(action="resolved", subject=f"review:{ID}", actor="ada", reason="she knows", detail=detail)
        ]


async def test_of_two_decisions_at_once_one_counts() -> None:
    """The other is told who was faster; there is one record."""
    async with hall() as shared:
        await opened(shared)
        results = await asyncio.gather(
            shared.servers["a"].store.reviews.resolve(ID, choice="parent", by="ada", reason="a"),
            shared.servers["b"].store.reviews.resolve(ID, choice="child", by="bob", reason="b"),
            return_exceptions=True,
        )
        won = stored(shared).resolved_by
        (lost,) = [each for each in results if isinstance(each, ReviewSettled)]
        assert (lost.by, lost.review_id) == (won, ID)
        assert [each.actor for each in entries(shared)] == [won]


async def test_a_value_of_ones_own_takes_the_place_of_both() -> None:
    """It carries the clock of now, and says that a user gave it."""
    async with hall() as shared:
        await opened(shared)
        done = await shared.servers["b"].store.reviews.resolve(ID, value=[1, "x"], by="ada", reason="neither")
        assert done.resolved is not None
        assert (done.resolved.value, done.resolved.source, done.choice) == ([1, "x"], "user", "value")
        assert done.resolved.clock > CHILD.clock
        settled = await reviewer(shared.servers["a"]).settle("r1", "c1", PARENT, CHILD)
        assert settled is not None
        assert settled.variable == done.resolved
        assert "x" not in "".join(map(repr, entries(shared)))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, SettingsError),
        ({"choice": "parent", "value": 1}, SettingsError),
        ({"choice": "value"}, SettingsError),
        ({"value": "x" * 65_600}, InvalidDocument),
        ({"value": object()}, InvalidDocument),
        ({"value": "\0"}, InvalidDocument),
        ({"choice": "child", "by": ""}, InvalidKey),
        ({"choice": "child", "reason": "x" * 4001}, InvalidKey),
    ],
)
async def test_what_cannot_be_a_decision_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    """And the review stays as it is."""
    async with hall("a") as shared:
        await opened(shared)
        with pytest.raises(error):
            await shared.servers["a"].store.reviews.resolve(ID, **{"by": "ada", "reason": "why"} | arguments)
        assert (stored(shared).status, entries(shared)) == ("open", [])


async def test_a_refused_value_is_not_told() -> None:
    """Neither in the error's text nor in what caused it."""
    async with hall("a") as shared:
        await opened(shared)
        with pytest.raises(InvalidDocument) as caught:
            await shared.servers["a"].store.reviews.resolve(ID, value={"hidden-1": "hidden-1\0"}, by="ada", reason="r")
        assert "hidden-1" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("level", ["secret", "pii", "a later word"])
async def test_a_value_for_a_secret_is_sealed_or_refused(level: str) -> None:
    """Without keys nothing of it is stored; with them what seals it is asked, for the child whose place it takes."""
    async with hall("a") as shared:
        await opened(shared, child=msgspec.structs.replace(CHILD, sensitivity=level))
        reviews = shared.servers["a"].store.reviews
        with pytest.raises(KeyMissing, match="master_keys"):
            await reviews.resolve(ID, value="hidden-1", by="ada", reason="why")
        asked: list[str] = []

        def seal(run_id: str, variable: ContextVariable) -> ContextVariable:
            asked.append(run_id)
            return msgspec.structs.replace(variable, value=b"sealed")

        reviews._seal = seal
        done = await reviews.resolve(ID, value="hidden-1", by="ada", reason="why")
        assert done.resolved is not None
        assert (done.resolved.value, done.resolved.sensitivity, asked) == (b"sealed", level, ["c1"])
        assert b"hidden-1" not in b"".join(row.body for row in shared.l3.log.rows.values())


async def test_a_review_that_is_not_there_is_said_to_be_none() -> None:
    """Nothing is recorded."""
    async with hall("a") as shared:
        assert await shared.servers["a"].store.reviews.get(ID) is None
        with pytest.raises(NotFound, match="there is no review r1/c1/site"):
            await shared.servers["a"].store.reviews.resolve(ID, choice="child", by="ada", reason="why")
        assert entries(shared) == []


async def test_nobody_is_late_before_the_deadline_and_the_fallback_decides_behind_it() -> None:
    """By L3's clock; with the record that no person answered."""
    async with hall(review_fallback="child_wins") as shared:
        await opened(shared)
        reviews = shared.servers["b"].store.reviews
        shared.clock.advance(HOUR - 1.0)
        assert await reviews.time_out(ID) is None
        await shared.servers["b"].run_flows.review_sweeper.sweep()
        assert stored(shared).status == "open"
        shared.clock.advance(1.0)
        await shared.servers["b"].run_flows.review_sweeper.sweep()
        done = stored(shared)
        assert (done.status, done.choice, done.resolved_by, done.resolved) == ("timed_out", "child", "b", None)
        (note,) = entries(shared)
        assert (note.action, note.actor) == ("resolved", "b")
        assert note.reason.startswith("no person answered until ")
        settled = await wait_for(reviewer(shared.servers["a"]))
        assert settled.variable == CHILD
        with pytest.raises(ReviewSettled, match="had timed out and was decided by b"):
            await reviews.resolve(ID, choice="parent", by="ada", reason="too late")


async def test_a_person_may_answer_late_if_nobody_has_swept() -> None:
    """What counts is who decides first."""
    async with hall() as shared:
        await opened(shared)
        shared.clock.advance(2 * HOUR)
        for flows in shared.servers.values():
            await flows.run_flows.review_sweeper.stop()
        done = await shared.servers["b"].store.reviews.resolve(ID, choice="child", by="ada", reason="late")
        assert done.status == "resolved"


async def test_sweepers_of_all_servers_make_one_record() -> None:
    """Both see it overdue; one decides, and the other finds that out without a fault."""
    async with hall() as shared:
        await opened(shared)
        shared.clock.advance(HOUR)
        sweepers = [flows.run_flows.review_sweeper for flows in shared.servers.values()]
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        assert sum(sweeper.timed_out for sweeper in sweepers) == 1
        assert len(entries(shared)) == 1


async def test_a_server_sweeps_while_it_runs() -> None:
    """From its start to its end, whatever L3 says meanwhile."""

    async def nap(_: float) -> None:
        await asyncio.sleep(0.001)

    async with hall("a") as shared:
        await opened(shared)
        sweeper = OverdueSweeper(shared.servers["a"].run_flows.reviews, nap, "review")
        shared.l3.away = True
        sweeper.start()
        try:

            async def has_failed() -> bool:
                return sweeper.fault is not None

            await until(has_failed)
            shared.l3.away = False
            shared.clock.advance(HOUR)

            async def is_done() -> bool:
                return stored(shared).status == "timed_out" and sweeper.fault is None

            await until(is_done)
        finally:
            await sweeper.stop()
            await sweeper.stop()
        assert shared.servers["a"].run_flows.review_sweeper._loop._task is not None
    assert shared.servers["a"].run_flows.review_sweeper._loop._task is None


async def test_no_fault_ends_the_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody thought of goes to the event loop's handler, and the next attempt is made."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    naps = asyncio.Semaphore(0)

    async def nap(_: float) -> None:
        naps.release()
        await asyncio.sleep(0)

    async with hall("a") as shared:
        sweeper = OverdueSweeper(shared.servers["a"].run_flows.reviews, nap, "review")

        async def broken() -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(sweeper, "sweep", broken)
        sweeper.start()
        await naps.acquire()
        await naps.acquire()
        await sweeper.stop()
    assert told[:2] == ["holdfast: deciding overdue reviews failed"] * 2


async def test_one_that_cannot_be_decided_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is said in the log, once, and those behind it are decided."""
    async with hall("a") as shared:
        await opened(shared)
        broken = msgspec.json.encode({"runId": 5, "deadline": "1999-01-01T00:00:00Z"})
        await shared.l3.raw_put(Key("review", "broken"), broken)
        shared.clock.advance(HOUR)
        with caplog.at_level(logging.WARNING, "holdfast"):
            for _ in range(3):
                await shared.servers["a"].run_flows.review_sweeper.sweep()
        assert stored(shared).status == "timed_out"
        assert caplog.text.count("review broken is overdue and cannot be decided") == 1


@pytest.mark.parametrize("fault", [RowRefused, OutcomeUnknown, SerializationFailure, TierError])
async def test_one_that_l3_refuses_holds_up_no_other(
    fault: type[TierError], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said of one review, as by a trigger, is none of the others'; it is tried again at each sweep."""
    async with hall("a") as shared:
        sweeper = shared.servers["a"].run_flows.review_sweeper
        await sweeper.stop()
        await begin(shared)
        assert await reviewer(shared.servers["a"]).settle("r1", "c0", PARENT, CHILD) is None
        await opened(shared)
        healthy, tried = Reviews.time_out, list[str]()

        async def time_out(self: Reviews, identifier: str) -> Review | None:
            if identifier == "r1/c0/site":
                tried.append(identifier)
                raise fault("a trigger refuses it")
            return await healthy(self, identifier)

        monkeypatch.setattr(Reviews, "time_out", time_out)
        shared.clock.advance(HOUR)
        for _ in range(2):
            await sweeper.sweep()
        assert stored(shared).status == "timed_out"
        assert len(tried) == 2
        assert caplog.text.count("review r1/c0/site is overdue and cannot be decided") == 1


@pytest.mark.parametrize("fault", [TierUnavailable, StorageNotReady, StorageFull, Overloaded])
async def test_while_l3_is_away_no_other_is_asked_for(fault: type[TierError], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep ends at the first."""
    async with hall("a") as shared:
        sweeper = shared.servers["a"].run_flows.review_sweeper
        await sweeper.stop()
        await opened(shared)
        assert await reviewer(shared.servers["a"]).settle("r1", "c2", PARENT, CHILD) is None
        tried: list[str] = []

        async def time_out(_: Reviews, identifier: str) -> Review | None:
            tried.append(identifier)
            raise fault("away")

        monkeypatch.setattr(Reviews, "time_out", time_out)
        shared.clock.advance(HOUR)
        with pytest.raises(fault):
            await sweeper.sweep()
        assert len(tried) == 1


def test_a_warning_is_remembered_as_long_as_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    """Those logged longest ago make room."""
    once = LogOnce(logging.getLogger("holdfast"))
    for number in range(TEXTS_MAX):
        once.warning(f"<{number}>")
    once.warning("<0>")
    assert caplog.text.count("<0>") == 1
    once.warning("one more")
    once.warning("<0>")
    assert caplog.text.count("<0>") == 2
    assert len(once._logged) == TEXTS_MAX


async def test_what_becomes_of_a_review_is_told_without_values() -> None:
    """When it is opened, resolved, or timed out, to every server."""
    hidden = [msgspec.structs.replace(side, value=f"hidden-{side.value}") for side in (PARENT, CHILD)]
    async with hall() as shared:
        notes = Notes()
        shared.servers["b"].store.subscribe("routine/review/*", notes)
        await opened(shared, hidden[1], hidden[0])
        await notes.until(1)
        await shared.servers["a"].store.reviews.resolve(ID, value="hidden-3", by="ada", reason="why")
        await notes.until(2)
        merge = reviewer(shared.servers["a"])
        assert await merge.settle("r1", "c2", PARENT, CHILD) is None
        await notes.until(3)
        shared.clock.advance(HOUR)
        await shared.servers["b"].run_flows.review_sweeper.sweep()
        await notes.until(4)
        topics = [each.type.removeprefix("routine/review/") for each in notes.events]
        assert topics == ["opened", "resolved", "opened", "timed_out"]
        assert notes.data[1] | {"timestamp": 0} == {
            "reviewId": ID,
            "runId": "r1",
            "childRunId": "c1",
            "variable": "site",
            "status": "resolved",
            "choice": "value",
            "by": "ada",
            "timestamp": 0,
        }
        assert "hidden" not in repr(notes.data)


async def test_a_run_that_goes_on_finds_what_was_decided_later() -> None:
    """Until it has taken it over, once."""
    async with hall(review_policy="go_on") as shared:
        reviews = shared.servers["a"].store.reviews
        await begin(shared)
        settled = await reviewer(shared.servers["a"]).settle("r1", "c1", PARENT, CHILD)
        assert settled is not None
        assert settled.variable == PARENT
        assert await reviews.unapplied("r1") == []
        await reviews.resolve(ID, choice="child", by="ada", reason="why")
        (found,) = await reviews.unapplied("r1")
        assert (found.id, found.key, found.variable) == (ID, "site", CHILD)
        assert await reviews.unapplied("r2") == []
        await reviews.note_applied(found, "r1", 1)
        assert await reviews.unapplied("r1") == []


async def test_a_review_that_waits_is_nothing_to_take_over() -> None:
    """Its merge finds the decision itself."""
    async with hall("a") as shared:
        await opened(shared)
        await shared.servers["a"].store.reviews.resolve(ID, choice="child", by="ada", reason="why")
        assert await shared.servers["a"].store.reviews.unapplied("r1") == []


async def test_reviews_are_listed_by_state_and_run() -> None:
    """Open ones by default, page by page."""
    async with hall("a") as shared:
        reviews = shared.servers["a"].store.reviews
        await begin(shared)
        await begin(shared, "r2")
        merge = reviewer(shared.servers["a"])
        for child in ("c1", "c2", "c3"):
            await merge.settle("r1", child, PARENT, CHILD)
        await merge.settle("r2", "c4", None, CHILD)
        await reviews.resolve("r1/c2/site", choice="child", by="ada", reason="why")

        async def ids(**which: Any) -> list[str]:
            return [each.id for each in await reviews.list(**which)]

        assert await ids() == ["r1/c1/site", "r1/c3/site", "r2/c4/site"]
        assert await ids(status=None, run_id="r1") == ["r1/c1/site", "r1/c2/site", "r1/c3/site"]
        assert await ids(status="resolved") == ["r1/c2/site"]
        (first,) = await reviews.list(limit=1)
        assert await ids(after=first.cursor) == ["r1/c3/site", "r2/c4/site"]


@pytest.mark.parametrize("locks", [True, False], ids=["as it is", "mutant"])
async def test_a_decision_locks_its_review(
    locks: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mutant: it is read without a lock, and two decisions both count."""
    load = MemoryTransaction.load

    async def unlocked(self: MemoryTransaction, keys: Any, *, lock: bool = False) -> Any:
        found = await load(self, keys, lock=lock and locks)
        await asyncio.sleep(0)
        return found

    async with hall() as shared:
        await opened(shared)
        monkeypatch.setattr(MemoryTransaction, "load", unlocked)
        await asyncio.gather(
            *(
                flows.store.reviews.resolve(ID, choice="child", by=name, reason="why")
                for name, flows in shared.servers.items()
            ),
            return_exceptions=True,
        )
        assert len(entries(shared)) == (1 if locks else 2)


async def test_an_entry_is_seen_by_whoever_asks_the_door() -> None:
    """`state.audit`: what was invalidated by hand, and not by the rules."""
    async with hall() as shared:
        one, two = (shared.servers[name].store for name in "ab")
        await one.invalidate(tag="bot:b1", reason="why", actor="ada")
        await one.bots.invalidate("b1", reason="too")
        found = [(each.note.action, each.note.subject, each.note.actor) for each in await two.audit.list()]
        assert found == [("invalidated", "tag:bot:b1", "ada"), ("invalidated", "bot:b1", "a")]
        report = await two.audit.verify()
        assert (report.entries, report.broken) == (2, None)
        transaction = await shared.l3.open_transaction(Isolation.READ_COMMITTED)
        await transaction.audit(AuditNote(action="revealed", subject="x", actor="eve", reason="-"))
        await transaction.commit()
        assert (await one.audit.verify()).entries == 3
        encode(Review(run_id="r", child_run_id="c", variable="v", child=CHILD))
