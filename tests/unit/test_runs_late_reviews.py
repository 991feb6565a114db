"""Decisions that come after a run has gone on without them: taken over, kept, and noted, once each."""

from __future__ import annotations

from typing import Any

import pytest

from fix_run_servers import RUN, Hall, hall, values
from fix_secrets import OLD
from holdfast import Consistency
from holdfast.documents import Sealed
from holdfast.errors import LimitExceeded, RunOver, TierUnavailable
from holdfast.protocols import LateDecision
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.reviews.reviews import Reviews
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.late_decisions import LateDecisions

GO_ON: dict[str, Any] = {"review_policy": "go_on", "run_on_conflict": "manual_review"}


async def gone_on(at: Hall, *children: str, sensitivity: str = "internal") -> ActiveRun:
    """A run that has merged children which contradict it, and has gone on with its own x."""
    parent: ActiveRun = await at.a.begin("search", run_id=RUN)
    parent.context.set("x", "before", sensitivity=sensitivity)
    begun = [await at.a.begin("look", parent=parent, run_id=name) for name in children]
    parent.context["x"] = "mine"
    for child in begun:
        child.context["x"] = child.id
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
    merge = await parent.merge_children()
    assert [each.id for each in merge.children] == [*children]
    assert parent.context["x"] == "mine"
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
        again._taking_over._late = of(at.b._ground, again.context)
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
        run._taking_over._late = of(at.b._ground, run.context)
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
                await at.servers["a"].run_flows.reviews.note_applied(f"{RUN}/c1/x", overtaken=False)

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
