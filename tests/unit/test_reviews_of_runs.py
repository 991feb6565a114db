"""Reviews and the runs that they are of: what a run has written since, what became secret, and runs that are over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall
from fix_runs import hybrid_clock
from fix_secrets import NEW, entropy, known_keys
from holdfast.documents import ContextVariable, Review, Sealed, decode
from holdfast.entry import Durability
from holdfast.errors import NotOwner, ReviewSettled, RunOver
from holdfast.keys import Key
from holdfast.kinds import RUN as RUN_KIND
from holdfast.protocols.reviews import OVERTAKEN, Basis
from holdfast.reviews.reviews import Reviews
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.secrets import is_same_secret, protected
from holdfast.sensitivity.known_keys import KnownKeys, Sealer
from holdfast.transactions import Transaction
from holdfast.write_behind.flusher import LOCKED_SECONDS
from holdfast.write_behind.handing_over import HandingOver

ID = f"{RUN}/c1/x"
MANUAL: dict[str, Any] = {"run_on_conflict": "manual_review"}
HOUR = 3600.0


async def contradicted(at: Hall, *names: str, **how: Any) -> ActiveRun:
    """A run with an x of its own, and ended children that have each made something else of it.

    Args:
        how: x is written everywhere; see `RunContext.set`.
    """
    parent: ActiveRun = await at.a.begin("search", run_id=RUN)
    parent.context.set("x", "before", **how)
    children = [await at.a.begin("look", parent=parent, run_id=name) for name in names or ("c1",)]
    parent.context["x"] = "mine"
    for child in children:
        child.context["x"] = f"of {child.id}"
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
    return parent


async def asking(at: Hall, **how: Any) -> ActiveRun:
    """A run whose merge waits for a review."""
    parent = await contradicted(at, **how)
    assert (await parent.merge_children()).needs_review
    return parent


def review(at: Hall, identifier: str = ID) -> Review:
    """As L3 has it."""
    return decode(Review, at.l3.log.rows[Key("review", identifier)].body)


async def decide(at: Hall, identifier: str = ID, **what: Any) -> Review:
    """As a person does, on the other server."""
    reviews: Reviews = at.servers["b"].store.reviews
    return await reviews.resolve(identifier, by="ada", reason="she knows", **what)


@pytest.mark.parametrize("what", [{"choice": "child"}, {"value": "both"}])
@pytest.mark.parametrize("applies", [True, False], ids=["as it is", "mutant"])
async def test_a_merge_undoes_nothing_that_was_written_since_it_asked(
    what: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    applies: bool,
) -> None:
    """The parent's stands, and resolution and review say that the decision was overtaken. Mutant: it never is."""
    if not applies:
        monkeypatch.setattr(Basis, "is_overtaken", lambda _, __: False)
    async with hall(**MANUAL) as at:
        parent = await asking(at)
        parent.context["x"] = "since"
        await decide(at, **what)
        (resolution,) = (await parent.merge_children()).resolutions
        assert resolution.reason.endswith(OVERTAKEN) is applies
        assert (review(at).overtaken, parent.context["x"] == "since") == (applies, applies)


async def test_a_merge_undoes_no_removal() -> None:
    """Which is a write, too."""
    async with hall(**MANUAL) as at:
        parent = await asking(at)
        del parent.context["x"]
        await decide(at, choice="child")
        await parent.merge_children()
        assert "x" not in parent.context
        assert review(at).overtaken


async def test_a_review_that_is_not_overtaken_after_all_says_so() -> None:
    """What was written since was lost with its server, before it was kept."""
    async with hall(**MANUAL) as at:
        parent = await asking(at)
        await parent.checkpoint()
        await decide(at, choice="child")
        settle = at.servers["a"].run_flows._ground().reviewer(parent.epoch).settle
        held, exported = parent.context.variable("x"), at.row("c1").exported["x"]
        parent.context["x"] = "since"
        found = await settle(RUN, "c1", parent.context.variable("x"), exported)
        assert found is not None
        assert (found.overtaken, review(at).overtaken) == (True, True)
        found = await settle(RUN, "c1", held, exported)
        assert found is not None
        assert (found.overtaken, review(at).overtaken) == (False, False)


async def test_what_a_person_is_asked_about_is_kept_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision is on a write: lost with its server and made again it would be another. Mutant: it is not kept."""

    async def after_a_kill(*, keeps: bool) -> Any:
        async with hall(**MANUAL) as at:
            parent = await contradicted(at)
            with monkeypatch.context() as patch:
                if not keeps:
                    patch.setattr(parent, "_keep_merged", lambda _: asyncio.sleep(0))
                assert (await parent.merge_children()).needs_review
            await at.kill("a")
            return (await at.b.resume(RUN)).context["x"]

    assert await after_a_kill(keeps=True) == "mine"
    assert await after_a_kill(keeps=False) == "before"


async def test_a_late_decision_stands_where_another_one_was_taken_over() -> None:
    """Though that is neither what the run had when this one's review was opened, nor its child's."""
    async with hall(review_policy="go_on", **MANUAL) as at:
        parent = await contradicted(at, "c1", "c2")
        await parent.merge_children()
        await decide(at, f"{RUN}/c2/x", choice="child")
        assert [each.overtaken for each in await parent.settle_reviews()] == [False]
        await decide(at, choice="child")
        assert [each.overtaken for each in await parent.settle_reviews()] == [False]
        assert parent.context["x"] == "of c1"


@pytest.mark.parametrize("asks", [True, False], ids=["as it is", "mutant"])
async def test_a_merge_knows_what_another_decision_has_put_there(
    monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    """Where its own review was opened before that was taken over. Mutant: it does not ask for other decisions."""
    if not asks:

        async def nothing(*_: object) -> frozenset[str]:
            return frozenset()

        monkeypatch.setattr(Reviews, "decided_clocks", nothing)
    async with hall(review_policy="go_on", **MANUAL) as at:
        parent = await contradicted(at, "c1", "c2")
        mine, ask = parent.context.variable("x"), at.servers["a"].run_flows._ground().reviewer(parent.epoch)
        for name in ("c1", "c2"):
            await ask.settle(RUN, name, mine, at.row(name).exported["x"])
        await decide(at, f"{RUN}/c2/x", choice="child")
        await parent.settle_reviews()
        await decide(at, choice="child")
        found = await ask.settle(RUN, "c1", parent.context.variable("x"), at.row("c1").exported["x"])
        assert found is not None
        assert found.overtaken is not asks


@pytest.mark.parametrize("looks", [True, False], ids=["as it is", "mutant"])
async def test_a_value_for_what_became_secret_since_is_sealed(monkeypatch: pytest.MonkeyPatch, *, looks: bool) -> None:
    """Whatever both sides were when the review was opened. Mutant: what the run has now is not looked at."""
    if not looks:

        async def nothing(*_: object) -> None:
            return None

        monkeypatch.setattr("holdfast.run_flows.RunFlows._held", nothing)
    async with hall(master_keys=(NEW,), **MANUAL) as at:
        parent = await asking(at)
        parent.context.set("x", "mine", sensitivity="secret")
        await parent.checkpoint()
        await decide(at, value="hidden-1")
        resolved = review(at).resolved
        assert isinstance(resolved, ContextVariable)
        assert (resolved.sensitivity == "secret", type(resolved.value) is Sealed) == (looks, looks)
        assert (b"hidden-1" in b"".join(row.body for row in at.l3.log.rows.values())) is not looks


@pytest.mark.parametrize("policy", ["wait", "go_on"])
async def test_a_value_may_be_sealed_with_a_data_key_that_the_run_has_not_met(policy: str) -> None:
    """The server on which it was decided seals with another one, as after a rotation."""
    async with hall(master_keys=(NEW,), review_policy=policy, **MANUAL) as at:
        parent = await contradicted(at, sensitivity="secret")
        assert (await parent.merge_children()).needs_review is (policy == "wait")
        ring = at.servers["b"].keys
        ring.known.learn(key := await ring._made())
        ring.known.sealer = Sealer(key, entropy(7))
        await decide(at, value="hidden")
        await (parent.merge_children() if policy == "wait" else parent.settle_reviews())
        assert parent.context["x"] == "hidden"


@pytest.mark.parametrize("policy", ["wait", "go_on"])
@pytest.mark.parametrize("end", ["complete", "cancel", "delete"])
async def test_a_decision_that_would_reach_nobody_is_refused(policy: str, end: str) -> None:
    """Instead of being recorded as if it had an effect; one that was made before is told of as ever."""
    async with hall(review_policy=policy, **MANUAL) as at:
        parent = await contradicted(at, "c1", "c2")
        await parent.merge_children()
        status = {"complete": "completed", "cancel": "cancelled", "delete": "deleted"}[end]
        if end == "delete":
            await parent.release()
            await at.servers["a"].store.collection(RUN_KIND).delete(RUN)
        else:
            await getattr(parent, end)()
        for what in ({"choice": "child"}, {"value": 1}):
            with pytest.raises(RunOver, match=f"run {RUN} is {status}: a decision would reach nobody"):
                await decide(at, **what)
        assert review(at).status == "open"
        assert at.l3.log.marks.audit == ()


async def test_reviews_of_a_run_that_is_over_are_closed_at_their_deadline() -> None:
    """With that reason, and not as if the fallback had decided anything."""
    async with hall(review_fallback="child_wins", **MANUAL) as at:
        parent = await asking(at)
        await parent.fail("no use")
        at.clock.advance(HOUR)
        await at.servers["b"].run_flows.review_sweeper.sweep()
        assert (review(at).status, review(at).choice) == ("timed_out", "parent")
        assert review(at).reason == f"run {RUN} is failed: a decision would reach nobody"
        (entry,) = at.l3.log.marks.audit
        assert entry.note.reason == review(at).reason
        with pytest.raises(ReviewSettled):
            await decide(at, choice="child")


@pytest.mark.parametrize("compares", [True, False], ids=["as it is", "mutant"])
async def test_two_secrets_that_are_the_same_are_no_conflict(
    monkeypatch: pytest.MonkeyPatch, *, compares: bool
) -> None:
    """Though each is sealed for its own run. Mutant: what is sealed is compared."""
    if not compares:
        monkeypatch.setattr("holdfast.run_context.child_merging.is_same_secret", lambda *_: False)
    async with hall(master_keys=(NEW,), **MANUAL) as at:
        parent = await contradicted(at, sensitivity="secret")
        parent.context["x"] = "of c1"
        merge = await parent.merge_children()
        assert (len(merge.children), merge.needs_review) == ((1, False) if compares else (0, True))


def test_secrets_are_the_same_only_where_both_can_be_opened() -> None:
    """What cannot be opened, and what is not sealed on both sides, is left to be compared as it is."""
    keys, clock = known_keys(), hybrid_clock()

    def held(run_id: str, value: object, sensitivity: str = "secret") -> ContextVariable:
        variable = ContextVariable(key="x", value=value, clock=clock.now().as_text(), sensitivity=sensitivity)
        return protected(variable, run_id, keys)

    one, same = held("r1", [1]), held("c1", [1])
    assert is_same_secret(one, "r1", same, "c1", keys)
    assert not is_same_secret(one, "r1", held("c1", [1.0]), "c1", keys)
    assert not is_same_secret(one, "r1", same, "c2", keys)
    assert not is_same_secret(one, "r1", same, "c1", KnownKeys())
    assert not is_same_secret(held("r1", [1], "public"), "r1", same, "c1", keys)


async def test_a_runs_strategy_of_a_later_version_is_for_a_person() -> None:
    """As a variable's is; the run is resumed."""
    async with hall() as at:
        parent = await contradicted(at)
        await parent.release()
        runs = at.servers["a"].store.runs._ground.runs
        await runs.update(RUN, lambda run: msgspec.structs.replace(run, on_conflict="of a later version"))
        again = await at.b.resume(RUN)
        assert (await again.merge_children()).needs_review


async def test_a_stale_owner_opens_no_review() -> None:
    """A person would decide on what the run has not; the new owner opens it, with what it has."""
    async with hall(**MANUAL) as at:
        stale = await contradicted(at)
        await stale.checkpoint()
        owner = await at.b.resume(RUN, force=True)
        owner.context["x"] = "of b"
        await owner.checkpoint()
        with pytest.raises(NotOwner, match="taken over by another server: it is under epoch 2, not 1"):
            await stale.merge_children()
        assert stale.is_over
        assert Key("review", ID) not in at.l3.log.rows
        assert (await owner.merge_children()).needs_review
        parent = review(at).parent
        assert parent is not None
        await decide(at, choice="child")
        await owner.merge_children()
        assert (parent.value, owner.context["x"]) == ("of b", "of c1")


@pytest.mark.parametrize("large", [False, True])
async def test_no_review_is_opened_of_a_run_that_was_deleted(*, large: bool) -> None:
    """Nor is one recorded that the fallback decides."""
    async with hall(**MANUAL) as at:
        parent = await contradicted(at)
        await parent.release()
        exported, ask = at.row("c1").exported["x"], at.servers["a"].run_flows._ground().reviewer(parent.epoch)
        await at.servers["a"].store.collection(RUN_KIND).delete(RUN)
        with pytest.raises(RunOver, match="was deleted"):
            await ask.settle(RUN, "c1", None, msgspec.structs.replace(exported, value="x" * 600_000 * large))
        assert Key("review", ID) not in at.l3.log.rows
        assert at.l3.log.marks.audit == ()


@pytest.mark.parametrize("hands_over", [True, False], ids=["as it is", "mutant"])
async def test_a_value_for_what_was_saved_as_secret_is_sealed(
    monkeypatch: pytest.MonkeyPatch, *, hands_over: bool
) -> None:
    """Though only its owner's journal tells so yet. Mutant: that is not asked."""
    if not hands_over:

        async def nothing(*_: object) -> int:
            return 0

        monkeypatch.setattr(HandingOver, "decide_for", nothing)
    async with hall(master_keys=(NEW,), **MANUAL) as at:
        parent = await asking(at)
        parent.context.set("x", "mine", sensitivity="secret")
        receipt = await parent.save()
        assert receipt is not None
        assert not receipt.durability.covers(Durability.COMMITTED)
        await decide(at, value="hidden-1")
        assert (b"hidden-1" in b"".join(row.body for row in at.l3.log.rows.values())) is not hands_over
        parent.context["y"] = "goes on"
        await parent.checkpoint()


@pytest.mark.parametrize("locks", [True, False], ids=["as it is", "mutant"])
async def test_a_run_does_not_end_while_a_decision_on_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch, *, locks: bool
) -> None:
    """Otherwise it would be recorded and reach nobody. Mutant: the run's row is read without a lock."""
    if not locks:
        monkeypatch.setattr(
            Reviews, "_run", lambda _, transaction, run_id: transaction.collection(RUN_KIND).get(run_id)
        )
    nobody_waits, status, ends = Reviews._nobody_waits, list[str](), list[asyncio.Future[Any]]()
    async with hall(**MANUAL) as at:
        parent = await asking(at)
        counters = at.servers["a"].counters.write_behind

        async def ended_or_held_up() -> bool:
            return ends[0].done() or counters.retries > 0

        def late(self: Reviews, run_id: str) -> Callable[[Transaction], Awaitable[str | None]]:
            async def why(transaction: Transaction) -> str | None:
                known = await nobody_waits(self, run_id)(transaction)
                ends.append(asyncio.ensure_future(parent.complete()))
                await until(ended_or_held_up)
                status.append(at.row().status)
                return known

            return why

        monkeypatch.setattr(Reviews, "_nobody_waits", late)
        await decide(at, choice="child")
        assert status == ["running" if locks else "completed"]
        at.clock.advance(LOCKED_SECONDS)
        await at.servers["a"].store.flush()
        await ends[0]
