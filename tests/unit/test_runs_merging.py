"""A run takes over what its children have exported: in their order, once each, whoever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Consistency
from holdfast.documents import ContextVariable, Run, decode
from holdfast.errors import LimitExceeded, NotOwner, TierUnavailable
from holdfast.protocols import Settled
from holdfast.run_context import child_merging
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.child_merging import ChildMerging, Merge
from holdfast.run_context.context import RunContext
from holdfast.run_context.merging import Comparison, Strategies


class Reviews:
    """Decides as it is told to.

    Attributes:
        decisions: by child.
        asked: how often it was.
    """

    def __init__(self, **decisions: Settled) -> None:
        self.decisions = decisions
        self.asked = 0
        self.again = asyncio.Event()

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """The decision there is."""
        assert run_id == RUN
        self.asked += 1
        return self.decisions.get(child_run_id)

    async def changed(self) -> None:
        """When the test says so."""
        await self.again.wait()
        self.again.clear()


async def parent_of(at: Hall, *names: str, **options: Any) -> tuple[ActiveRun, Sequence[ActiveRun]]:
    """A run whose variable x is 0, and runs below it that have made their name of it, to be exported."""
    parent: ActiveRun = await at.a.begin("search", run_id=RUN, **options)
    parent.context["x"] = 0
    children = [await at.a.begin("look", parent=parent, run_id=name) for name in names]
    for child in children:
        child.context["x"] = child.id
        child.context.mark_for_export("x", "parent_context")
    return parent, children


async def test_children_are_merged_in_the_order_of_their_begin() -> None:
    """Whoever ended first; what the parent takes over is kept when the call returns."""
    async with hall() as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict="child_wins")
        await two.complete()
        waiting = await parent.merge_children()
        assert (waiting.children, waiting.waits_for, waiting.needs_review) == ((), "c1", False)
        assert parent.context["x"] == 0
        await one.complete()
        merge = await parent.merge_children()
        assert [each.id for each in merge.children] == ["c1", "c2"]
        assert (merge.waits_for, parent.context["x"]) == (None, "c2")
        (resolution,) = merge.resolutions
        assert (resolution.variable_name, resolution.strategy.value, resolution.value) == ("x", "child_wins", "c2")
        assert values(await at.b.get(RUN, consistency=Consistency.STRONG)) in ({"x": 0}, {"x": "c2"})
        await parent.checkpoint()
        assert values(await at.b.get(RUN, consistency=Consistency.STRONG)) == {"x": "c2"}


async def test_a_child_is_merged_once() -> None:
    """What the parent writes afterwards stays."""
    async with hall("a") as at:
        parent, (child,) = await parent_of(at, "c1")
        await child.complete()
        assert (await parent.merge_children()).children
        parent.context["x"] = "mine"
        assert await parent.merge_children() == Merge(())
        assert parent.context["x"] == "mine"


async def test_those_that_did_not_complete_export_nothing() -> None:
    """They hold nobody back."""
    async with hall("a") as at:
        parent, (one, two, three) = await parent_of(at, "c1", "c2", "c3", on_conflict="child_wins")
        await one.fail("it broke")
        await two.cancel()
        await three.complete()
        merge = await parent.merge_children()
        assert [(each.id, each.status, each.variables) for each in merge.children] == [
            ("c1", "failed", ()),
            ("c2", "cancelled", ()),
            ("c3", "completed", ("x",)),
        ]
        assert parent.context["x"] == "c3"


@pytest.mark.parametrize("snapshots", [False, True])
async def test_another_owner_goes_on_behind_the_last_that_was_kept(*, snapshots: bool) -> None:
    """Whether that is in the row or in snapshots."""
    async with hall() as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict="child_wins")
        await one.complete()
        await parent.merge_children()
        parent.context["x"] = "mine"
        await (parent.checkpoint() if snapshots else parent.save())
        await parent.release()
        again = await at.b.resume(RUN)
        assert again.context["x"] == "mine"
        await two.complete()
        merge = await again.merge_children()
        assert [each.id for each in merge.children] == ["c2"]
        assert again.context["x"] == "c2"


async def test_what_was_not_kept_is_merged_again() -> None:
    """An owner that dies between two children leaves neither half of one."""
    async with hall() as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict="child_wins")
        await parent.checkpoint()
        for child in (one, two):
            await child.complete()
        merging = ChildMerging(at.a._ground, parent.context, _strategies(parent), Reviews())
        await merging.merge(lambda _: asyncio.sleep(0))
        assert parent.context["x"] == "c2"
        await at.kill("a")
        again = await at.b.resume(RUN)
        assert again.context["x"] == 0
        assert [each.id for each in (await again.merge_children()).children] == ["c1", "c2"]
        assert again.context["x"] == "c2"


class Away(Reviews):
    """Cannot be asked about one child."""

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """No decision."""
        if child_run_id == "c2":
            raise TierUnavailable("away")
        return await super().settle(run_id, child_run_id, parent, child)


async def test_children_before_one_that_cannot_be_asked_about_are_told_of() -> None:
    """They are merged and kept, and would be in no merge and no event any more."""
    async with hall() as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict="manual_review")
        parent.context["x"] = 1
        for child in (one, two):
            await child.complete()
        reviews = Away(c1=Settled(one.context.variable("x"), "so it is"))
        merge = await parent.merge_children(reviewer=reviews)
        assert ([each.id for each in merge.children], merge.waits_for, merge.fault) == (["c1"], "c2", "away")
        with pytest.raises(TierUnavailable):
            await parent.merge_children(reviewer=reviews)


def _strategies(run: ActiveRun) -> Any:
    return Strategies(run.context.strategies, run._taking_over._otherwise)


async def test_the_strategy_is_the_variables_the_runs_or_the_settings() -> None:
    """In this order; each is kept with the run."""
    async with hall(run_on_conflict="child_wins") as at:
        for on_conflict, declared, stands in (
            (None, None, "c2"),
            ("parent_wins", None, "c1"),
            ("parent_wins", "child_wins", "c2"),
        ):
            parent, children = await parent_of(at, "c1", "c2", on_conflict=on_conflict)
            if declared is not None:
                parent.context.declare_strategy("x", declared)
            await parent.release()
            parent = await at.b.resume(RUN)
            for child in children:
                await child.complete()
            await parent.merge_children()
            assert parent.context["x"] == stands
            await parent.complete()
            await _forget(at, RUN, "c1", "c2")
        with pytest.raises(ValueError, match="moon"):
            at.a.begin("search", on_conflict="moon")
        with pytest.raises(ValueError, match="moon"):
            parent.context.declare_strategy("x", "moon")


async def _forget(at: Hall, *names: str) -> None:
    for key in [key for key in at.l3.log.rows if key.id.split("/")[0] in names]:
        del at.l3.log.rows[key]
    at.l3.log.marks = at.l3.log.marks._replace(erased=frozenset())
    for server in at.servers.values():
        for cache in set(server.caches.values()):
            cache.flush()


async def test_a_person_decides() -> None:
    """Until then the child and those behind it wait; `wait` waits for the decision."""
    async with hall("a") as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict="manual_review")
        parent.context["x"] = "mine"
        for child in (one, two):
            await child.complete()
        reviews = Reviews()
        waiting = await parent.merge_children(reviewer=reviews)
        assert (waiting.children, waiting.waits_for, waiting.needs_review) == ((), "c1", True)
        merging = asyncio.ensure_future(parent.merge_children(wait=True, reviewer=reviews))

        async def asked() -> bool:
            return reviews.asked == 2

        await until(asked)
        decided = ContextVariable(key="x", value="both", clock=parent.context.variable("x").clock)
        reviews.decisions = {"c1": Settled(decided, "it was agreed"), "c2": Settled(None, "not needed")}
        reviews.again.set()
        merge = await merging
        assert [each.reason for each in merge.resolutions] == ["it was agreed", "not needed"]
        assert "x" not in parent.context
        await parent.complete()
        assert values(await at.a.get(RUN)) == {}


async def test_what_was_written_while_a_decision_was_asked_for_is_not_lost() -> None:
    """The decision was on another value: it is asked for again."""
    async with hall("a") as at:
        parent, (one,) = await parent_of(at, "c1", on_conflict="manual_review")
        parent.context["x"] = "mine"
        await one.complete()
        seen = []

        class Slow(Reviews):
            async def settle(
                self, run_id: str, child_run_id: str, parent_: ContextVariable | None, child: ContextVariable
            ) -> Settled | None:
                assert parent_ is not None
                seen.append(parent_.value)
                if len(seen) == 1:
                    parent.context["x"] = "meanwhile"
                return Settled(parent_, "the parent's")

        await parent.merge_children(reviewer=Slow())
        assert seen == ["mine", "meanwhile"]
        assert parent.context["x"] == "meanwhile"


async def test_by_default_the_servers_reviews_are_asked() -> None:
    """A review is opened, and what it comes to is merged."""
    async with hall("a") as at:
        parent, (one,) = await parent_of(at, "c1", on_conflict="manual_review")
        parent.context["x"] = "mine"
        await one.complete()
        assert (await parent.merge_children()).needs_review
        reviews = at.servers["a"].store.reviews
        (opened,) = await reviews.list(run_id=RUN)
        await reviews.resolve(opened.id, choice="child", by="ada", reason="the child knows better")
        assert (await parent.merge_children(wait=True)).waits_for is None
        assert parent.context["x"] == "c1"


async def test_an_export_of_what_is_no_more_is_none() -> None:
    """A variable that a decision has removed leaves the parent for nobody."""
    async with hall("a") as at:
        parent, (one,) = await parent_of(at, "c1", on_conflict="manual_review")
        parent.context["x"] = "mine"
        parent.context.mark_for_export("x", "persistent_store")
        await one.complete()
        await parent.merge_children(reviewer=Reviews(c1=Settled(None, "not needed")))
        await parent.complete()
        assert (at.row().status, at.row().refused_exports) == ("completed", [])


async def test_what_does_not_fit_holds_back_that_child() -> None:
    """Those before it are merged, and the parent can make room."""
    async with hall("a", run_variables_max=2) as at:
        parent = await at.a.begin("search", run_id=RUN)
        for name in "abc":
            child = await at.a.begin("look", parent=parent)
            child.context[name] = 1
            child.context.mark_for_export(name, "parent_context")
            await child.complete()
        with pytest.raises(LimitExceeded):
            await parent.merge_children()
        assert [*parent.context] == ["a", "b"]
        del parent.context["a"]
        assert len((await parent.merge_children()).children) == 1
        assert [*parent.context] == ["b", "c"]


async def test_an_owner_of_before_merges_nothing() -> None:
    """What it had merged in memory is refused."""
    async with hall() as at:
        parent, (one,) = await parent_of(at, "c1")
        await one.complete()
        await parent.save()
        again = await at.b.resume(RUN, force=True)
        with pytest.raises(NotOwner):
            await merged_and_kept(parent)
        assert [each.id for each in (await again.merge_children()).children] == ["c1"]


async def merged_and_kept(run: ActiveRun) -> None:
    """Merge, and have L3 decide it."""
    await run.merge_children()
    await run.checkpoint()


async def test_many_children_are_read_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order."""
    monkeypatch.setattr(child_merging, "PAGE", 2)
    async with hall("a") as at:
        names = [f"c{number}" for number in range(7)]
        parent, children = await parent_of(at, *names)
        for child in children:
            await child.complete()
        assert [each.id for each in (await parent.merge_children()).children] == names


async def test_others_are_told_of_a_merge() -> None:
    """Which children, which conflicts, what became of them; no values."""
    async with hall("a") as at:
        heard: dict[str, Any] = {}
        at.servers["a"].store.subscribe("routine/branch/*", lambda event: heard.update({event.type: event.data}))
        parent, children = await parent_of(at, "c1", "c2")
        for child in children:
            await child.complete()
        await parent.merge_children()

        async def told() -> bool:
            return len(heard) == 3

        await until(told)
        assert heard["routine/branch/merged"]["childIds"] == ["c1", "c2"]
        assert heard["routine/branch/conflict"]["conflicts"] == [{"childId": "c2", "variable": "x"}]
        (resolved,) = heard["routine/branch/resolved"]["resolutions"]
        assert (resolved["strategy"], resolved["skewed"]) == ("parent_wins", False)


async def _merged(strategy: str, mutant: Any, patch: pytest.MonkeyPatch) -> Any:
    """What x is after children are merged, of which the second ended first; and what once a new owner has merged."""
    async with hall() as at:
        parent, (one, two) = await parent_of(at, "c1", "c2", on_conflict=strategy)
        await two.complete()
        mutant(patch)
        await parent.merge_children()
        await one.complete()
        await parent.merge_children()
        parent.context["y"] = parent.context["x"]
        parent.context["x"] = "mine"
        await parent.release()
        again = await at.b.resume(RUN)
        await again.merge_children()
        return again.context["y"], again.context["x"]


def by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Children that have not ended hold nobody back."""
    healthy = ChildMerging._unmerged
    done: set[str] = set()

    async def unmerged(self: ChildMerging) -> Any:
        self._context._draft.merged = 0
        async for name, row in healthy(self):
            if decode(Run, row.body).status == "completed" and name not in done:
                done.add(name)
                yield name, row

    patch.setattr(ChildMerging, "_unmerged", unmerged)


def not_recorded(patch: pytest.MonkeyPatch) -> None:
    """What was merged is kept; that it was is not."""
    healthy = RunContext.merge
    patch.setattr(RunContext, "merge", lambda self, _, *rest: healthy(self, 0, *rest))


def no_ancestors(patch: pytest.MonkeyPatch) -> None:
    """What a parent has written since counts as what the child began from."""

    def compared(exported: Any, parent: Any, _: Any) -> Any:
        return Comparison(dict(exported), [])

    patch.setattr(child_merging, "compared", compared)


@pytest.mark.parametrize(
    ("mutant", "strategy", "stands"),
    [(by_arrival, "child_wins", "c2"), (not_recorded, "child_wins", "c2"), (no_ancestors, "parent_wins", "c1")],
)
async def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], strategy: str, stands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of arrival, a merge that is not recorded, and an ancestor that does not count all give other values."""
    assert await _merged(strategy, lambda _: None, monkeypatch) == (stands, "mine")
    assert await _merged(strategy, mutant, monkeypatch) != (stands, "mine")
