"""Decisions that come after a run has gone on without them: taken over, kept, and noted, once each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fix_run_servers import RUN, Hall, hall, values
from fix_secrets import OLD
from holdfast import Consistency
from holdfast.documents import ContextVariable, Review, Sealed, decode
from holdfast.errors import KeyMissing, LimitExceeded, NotOwner, RunOver, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import LateDecision
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.reviews.reviews import Reviews
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.context import RunContext
from holdfast.run_context.late_decisions import LateDecisions

GO_ON: dict[str, Any] = {"review_policy": "go_on", "run_on_conflict": "manual_review"}


async def gone_on(at: Hall, *children: str, sensitivity: str = "internal", mine: str | None = "mine") -> ActiveRun:
    """A run that has merged children which contradict it, and has gone on with its own x.

    Args:
        mine: its x; None: it has removed it.
    """
    parent: ActiveRun = await at.a.begin("search", run_id=RUN)
    parent.context.set("x", "before", sensitivity=sensitivity)
    begun = [await at.a.begin("look", parent=parent, run_id=name) for name in children]
    if mine is None:
        del parent.context["x"]
    else:
        parent.context["x"] = mine
    for child in begun:
        child.context["x"] = child.id
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
    merge = await parent.merge_children()
    assert [each.id for each in merge.children] == [*children]
    assert parent.context.get("x") == mine
    return parent


async def decide(at: Hall, child: str, *, on: str = "b", **what: Any) -> None:
    """As a person does."""
    await at.servers[on].store.reviews.resolve(f"{RUN}/{child}/x", by="ada", reason="she knows", **what)


async def stored(at: Hall) -> Any:
    """What L3 has of x."""
    return values(await at.b.get(RUN, consistency=Consistency.STRONG)).get("x")


@pytest.mark.parametrize(
    ("what", "written", "stands"),
    [
        ({"choice": "child"}, None, "c1"),
        ({"choice": "child"}, "since", "since"),
        ({"choice": "parent"}, None, "mine"),
        ({"choice": "parent"}, "since", "since"),
        ({"value": ["both"]}, None, ["both"]),
        ({"value": ["both"]}, "since", "since"),
    ],
)
async def test_a_decision_is_taken_over_when_it_is_asked_for(what: Any, written: str | None, stands: Any) -> None:
    """L3 has it when the call returns. What the run has written since stays in any case, and that is told."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1")
        assert await parent.settle_reviews() == []
        if written is not None:
            parent.context["x"] = written
        await decide(at, "c1", **what)
        (taken,) = await parent.settle_reviews()
        is_overtaken = written is not None and what != {"choice": "parent"}
        reason = f"resolved by ada: she knows{f'; {OVERTAKEN}' if is_overtaken else ''}"
        assert (taken.key, taken.child_run_id, taken.reason) == ("x", "c1", reason)
        assert (taken.overtaken, taken.variable is None) == (is_overtaken, is_overtaken or what == {"choice": "parent"})
        review = await at.servers["b"].store.reviews.get(f"{RUN}/c1/x")
        assert review is not None
        assert (review.applied, review.overtaken) == (True, is_overtaken)
        assert (parent.context["x"], await stored(at)) == (stands, stands)
        parent.context["x"] = "later"
        assert await parent.settle_reviews() == []
        assert parent.context["x"] == "later"


async def test_decisions_are_taken_over_in_the_order_of_their_reviews() -> None:
    """Whichever was decided first."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1", "c2")
        await decide(at, "c2", choice="child")
        await decide(at, "c1", choice="child")
        assert [each.child_run_id for each in await parent.settle_reviews()] == ["c1", "c2"]
        assert parent.context["x"] == "c2"


async def test_what_nobody_answers_is_taken_over_too() -> None:
    """The fallback has decided it."""
    async with hall(review_fallback="child_wins", **GO_ON) as at:
        parent = await gone_on(at, "c1")
        at.clock.advance(at.settings.review_timeout_seconds + 1)
        await at.servers["b"].run_flows.review_sweeper.sweep()
        (taken,) = await parent.settle_reviews()
        assert "no person answered" in taken.reason
        assert await stored(at) == "c1"


async def test_a_secret_is_sealed_for_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """Also a value that takes the place of both, which another server has sealed."""
    async with hall(master_keys=(OLD,), **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", sensitivity="secret")
        await decide(at, "c1", choice="child")
        await parent.settle_reviews()
        assert parent.context["x"] == "c1"
        await decide(at, "c2", value="qzvxwj-1")
        (taken,) = await parent.settle_reviews()
        assert parent.context["x"] == "qzvxwj-1"
        assert type(parent.context.variable("x").value) is Sealed
        assert "qzvxwj" not in repr(taken) + caplog.text
        await parent.release()
        assert (await at.b.resume(RUN)).context["x"] == "qzvxwj-1"


async def test_what_was_set_for_good_stays() -> None:
    """No decision can write it any more."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1")
        parent.context.set("x", "for good", mutable=False)
        await decide(at, "c1", choice="child")
        assert len(await parent.settle_reviews()) == 1
        assert parent.context["x"] == "for good"
        assert await parent.settle_reviews() == []


async def test_a_run_ends_whatever_is_undecided() -> None:
    """Who decides its reviews then is told that it is over."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1")
        await parent.complete()
        with pytest.raises(RunOver):
            await decide(at, "c1", choice="child")
        assert (at.row().status, await stored(at)) == ("completed", "mine")


class Blind(LateDecisions):
    """Mutant: what is there already counts for nothing."""

    def _taken(self, decision: LateDecision) -> LateDecision:
        assert decision.variable is not None
        self._context.merge(self._context.merged, {decision.key: decision.variable})
        return decision


@pytest.mark.parametrize(("of", "writes"), [(LateDecisions, 0), (Blind, 1)])
async def test_an_owner_that_dies_before_the_note_has_it_taken_over_once(
    of: type[LateDecisions], writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one finds it there, writes nothing, and notes it."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1")
        await decide(at, "c1", choice="child")
        await fail_to_note(parent, monkeypatch)
        assert await stored(at) == "c1"
        await at.kill("a")
        again = await at.b.resume(RUN)
        again._taking_over._late = of(at.b._ground, again.context, again.epoch)
        before = len(at.row().changes)
        assert len(await again.settle_reviews()) == 1
        assert len(at.row().changes) - before == writes
        assert await again.settle_reviews() == []


async def fail_to_note(run: ActiveRun, patch: pytest.MonkeyPatch) -> None:
    """Settle reviews while L3 does not take the note."""

    async def away(*_: object, **__: object) -> None:
        raise TierUnavailable("not now")

    with patch.context() as broken:
        broken.setattr(Reviews, "note_applied", away)
        with pytest.raises(TierUnavailable):
            await run.settle_reviews()


@pytest.mark.parametrize("of", [LateDecisions, Blind])
@pytest.mark.parametrize("dies", [False, True])
async def test_what_could_not_be_noted_undoes_nothing(
    of: type[LateDecisions], monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    """The run has gone on from it, on this server or another. Mutant: it is taken over once more."""
    async with hall(**GO_ON) as at:
        run = await gone_on(at, "c1")
        await decide(at, "c1", choice="child")
        await fail_to_note(run, monkeypatch)
        if dies:
            await at.kill("a")
            run = await at.b.resume(RUN)
        run.context["x"] = "later"
        run._taking_over._late = of(at.b._ground, run.context, run.epoch)
        assert len(await run.settle_reviews()) == 1
        assert await run.settle_reviews() == []
        assert run.context["x"] == ("later" if of is LateDecisions else "c1")


async def test_what_a_merge_has_made_of_a_decision_is_not_made_of_it_again() -> None:
    """It was decided between two attempts at the merge, and the run has written since."""
    async with hall(run_variables_max=2, **GO_ON) as at:
        parent: ActiveRun = await at.a.begin("search", run_id=RUN)
        child = await at.a.begin("look", parent=parent, run_id="c1")
        for key, value in (("x", "mine"), ("z", "in the way")):
            parent.context[key] = value
        for key in ("x", "y"):
            child.context[key] = "c1"
            child.context.mark_for_export(key, "parent_context")
        await child.complete()
        with pytest.raises(LimitExceeded):
            await parent.merge_children()
        await decide(at, "c1", choice="child")
        del parent.context["z"]
        await parent.merge_children()
        assert parent.context["x"] == "c1"
        parent.context["x"] = "later"
        await parent.settle_reviews()
        assert parent.context["x"] == "later"


async def test_what_is_not_kept_is_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that dies before its context is in L3 loses no decision. Mutant: it is noted first."""

    async def after_a_kill(*, notes_first: bool) -> Any:
        async with hall(**GO_ON) as at:
            parent = await gone_on(at, "c1")
            await parent.checkpoint()
            await decide(at, "c1", choice="child")
            if notes_first:
                reviews = at.servers["a"].run_flows.reviews
                (decision,) = await reviews.unapplied(RUN)
                await reviews.note_applied(decision, RUN, parent.epoch)

            async def away(*_: object) -> None:
                raise TierUnavailable("not now")

            with monkeypatch.context() as broken:
                broken.setattr(parent, "save", away)
                if not notes_first:
                    with pytest.raises(TierUnavailable):
                        await parent.settle_reviews()
            await at.kill("a")
            again = await at.b.resume(RUN)
            await again.settle_reviews()
            return again.context["x"]

    assert await after_a_kill(notes_first=False) == "c1"
    assert await after_a_kill(notes_first=True) == "mine"


def review(at: Hall, child: str) -> Review:
    """As L3 has it."""
    return decode(Review, at.l3.log.rows[Key("review", f"{RUN}/{child}/x")].body)


async def tamper(at: Hall, child: str, *, version: int | None = None) -> None:
    """Change what the child exported, in its review.

    Args:
        version: of the format of seals; None: as it is.
    """
    reviews, held = at.servers["a"].store.collections["review"], review(at, child)
    assert type(held.child.value) is Sealed
    content = bytearray(held.child.value.content)
    content[-1] ^= 1
    if version is not None:
        content[0] = version
    side = msgspec.structs.replace(held.child, value=Sealed(bytes(content)))
    await reviews.put(f"{RUN}/{child}/x", msgspec.structs.replace(held, child=side))


async def test_what_was_tampered_with_is_left_out_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """For good: decision, review and log say so."""
    async with hall(master_keys=(OLD,), **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", sensitivity="secret")
        await tamper(at, "c1")
        for child in ("c1", "c2"):
            await decide(at, child, choice="child")
        broken, good = await parent.settle_reviews()
        assert (broken.left_out, broken.variable, broken.fault) == (True, None, None)
        assert "it is left out: " in broken.reason
        assert (good.left_out, parent.context["x"]) == (False, "c2")
        assert [(review(at, child).applied, review(at, child).left_out) for child in ("c1", "c2")] == [
            (True, True),
            (True, False),
        ]
        assert f"run {RUN} leaves out what was decided on {RUN}/c1/x" in caplog.text
        assert await parent.settle_reviews() == []


async def test_what_was_left_out_has_put_nothing_there() -> None:
    """So that there is no variable is no removal by the run."""
    async with hall(master_keys=(OLD,), **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", sensitivity="secret", mine=None)
        await tamper(at, "c1")
        await decide(at, "c1", choice="child")
        await parent.settle_reviews()
        await decide(at, "c2", choice="child")
        await parent.settle_reviews()
        assert parent.context["x"] == "c2"


async def test_what_a_later_version_sealed_waits_for_one() -> None:
    """The others go on without it."""
    async with hall(master_keys=(OLD,), **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", sensitivity="secret")
        await tamper(at, "c1", version=200)
        for child in ("c1", "c2"):
            await decide(at, child, choice="child")
        waits, good = await parent.settle_reviews()
        assert waits.fault is not None
        assert (waits.variable, waits.left_out, good.fault) == (None, False, None)
        assert (parent.context["x"], review(at, "c1").applied) == ("c2", False)


async def test_what_lacks_a_key_waits_for_it_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken over once its key is known."""
    adopt = RunContext.adopt

    def lacking(self: RunContext, variable: ContextVariable, from_run_id: str) -> ContextVariable:
        if from_run_id == "c1":
            raise KeyMissing("its key is not known here")
        return adopt(self, variable, from_run_id)

    async with hall(master_keys=(OLD,), **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", sensitivity="secret")
        for child in ("c1", "c2"):
            await decide(at, child, choice="child")
        with monkeypatch.context() as patch:
            patch.setattr(RunContext, "adopt", lacking)
            waits, good = await parent.settle_reviews()
        assert (waits.fault, waits.variable, good.fault) == ("its key is not known here", None, None)
        assert (parent.context["x"], review(at, "c1").applied) == ("c2", False)
        (taken,) = await parent.settle_reviews()
        assert (taken.fault, parent.context["x"]) == (None, "c1")


async def test_what_does_not_fit_waits_for_room_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is taken over as soon as there is some."""
    async with hall(run_variables_max=2, **GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", mine=None)
        for key in ("p", "q"):
            parent.context[key] = "in the way"
        await decide(at, "c1", choice="child")
        await decide(at, "c2", choice="parent")
        waits, good = await parent.settle_reviews()
        assert waits.fault is not None
        assert (waits.variable, good.fault) == (None, None)
        assert [review(at, child).applied for child in ("c1", "c2")] == [False, True]
        assert f"review {RUN}/c1/x waits to be taken over" in caplog.text
        del parent.context["p"]
        (taken,) = await parent.settle_reviews()
        assert (taken.fault, parent.context["x"], review(at, "c1").applied) == (None, "c1", True)


async def test_a_review_that_was_deleted_before_it_was_noted_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was decided stays where it is."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1")
        await decide(at, "c1", choice="child")
        await fail_to_note(parent, monkeypatch)
        await at.servers["a"].store.collections["review"].delete(f"{RUN}/c1/x")
        assert len(await parent.settle_reviews()) == 1
        assert (await parent.settle_reviews(), parent.context["x"]) == ([], "c1")


@pytest.mark.parametrize("later", [(), ("c2",)])
async def test_a_removal_is_not_undone_by_what_could_not_be_noted(
    later: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the run had no such variable when it was opened; nor by a decision of after the removal."""
    async with hall(**GO_ON) as at:
        parent = await gone_on(at, "c1", "c2", mine=None)
        await decide(at, "c1", choice="child")
        await fail_to_note(parent, monkeypatch)
        assert parent.context["x"] == "c1"
        del parent.context["x"]
        await parent.save()
        for child in later:
            await decide(at, child, choice="child")
        assert [each.overtaken for each in await parent.settle_reviews()] == [False, *(True for _ in later)]
        assert "x" not in parent.context
        assert await parent.settle_reviews() == []


@pytest.mark.parametrize("dies", [False, True])
async def test_a_removal_is_not_undone_by_another_decision(*, dies: bool) -> None:
    """One was taken over before, so who finds none knows that it was removed since; on this server or another."""
    async with hall(**GO_ON) as at:
        run = await gone_on(at, "c1", "c2", mine=None)
        await decide(at, "c1", choice="child")
        await run.settle_reviews()
        assert run.context["x"] == "c1"
        del run.context["x"]
        await run.checkpoint()
        if dies:
            await at.kill("a")
            run = await at.b.resume(RUN)
        await decide(at, "c2", choice="child")
        (taken,) = await run.settle_reviews()
        assert (taken.overtaken, "x" in run.context) == (True, False)


async def test_a_decision_stands_over_a_removal_that_its_review_has_shown() -> None:
    """It was opened after that."""
    async with hall(**GO_ON) as at:
        run = await gone_on(at, "c1", mine=None)
        await decide(at, "c1", choice="child")
        await run.settle_reviews()
        child = await at.a.begin("look", parent=run, run_id="c2")
        del run.context["x"]
        child.context["x"] = "c2"
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
        await run.merge_children()
        assert review(at, "c2").parent is None
        await decide(at, "c2", choice="child")
        (taken,) = await run.settle_reviews()
        assert (taken.overtaken, run.context["x"]) == (False, "c2")


async def test_a_stale_owner_takes_no_decision_from_the_new_one() -> None:
    """It finds out, though it has nothing to write; and the decision is there for who owns the run."""
    async with hall(**GO_ON) as at:
        stale = await gone_on(at, "c1")
        stale.context["x"] = "since"
        await stale.checkpoint()
        owner = await at.b.resume(RUN, force=True)
        await decide(at, "c1", choice="child")
        with pytest.raises(NotOwner, match="taken over by another server: it is under epoch 2, not 1"):
            await stale.settle_reviews()
        assert stale.is_over
        with pytest.raises(NotOwner):
            await stale.save()
        assert not review(at, "c1").applied
        assert [each.overtaken for each in await owner.settle_reviews()] == [True]
