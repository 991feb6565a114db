"""Decisions that come late, on real servers: taken over by the run's owner, and never over what the run wrote since."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_races import until
from holdfast import Consistency, Settings
from holdfast.documents import Review
from holdfast.node import OpenStore
from holdfast.protocols.reviews import OVERTAKEN
from holdfast.run_context.active_run import ActiveRun

RUN = "run-1"


@pytest.fixture
async def states(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers whose runs go on without decisions, and their tiers for commands."""
    name_servers(settings, monkeypatch)
    how = msgspec.structs.replace(settings, journal_replicas=0, review_policy="go_on", run_on_conflict="manual_review")
    async with holdfast.connect(how) as one, holdfast.connect(how) as two:
        yield one, two


async def gone_on(state: OpenStore) -> ActiveRun:
    """A run that two children contradict, and that has gone on with its own x."""
    parent = await state.runs.begin("search", run_id=RUN)
    parent.context["x"] = "before"
    children = [await state.runs.begin("look", parent=parent, run_id=name) for name in ("c1", "c2")]
    parent.context["x"] = "mine"
    for child in children:
        child.context["x"] = f"of {child.id}"
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
    assert [each.id for each in (await parent.merge_children()).children] == ["c1", "c2"]
    assert await parent.settle_reviews() == []
    return parent


async def command(*words: str) -> None:
    """What a person does in a shell."""
    assert await run_command("reviews", "resolve", *words, "--reason", "she knows", "--by", "ada") == 0


async def stored(state: OpenStore) -> Any:
    """What L3 has of x, as this server reads it."""
    view = await state.runs.get(RUN, consistency=Consistency.STRONG)
    assert view is not None
    return view.state.variables["x"].value


async def review(state: OpenStore, child: str) -> Review:
    """As L3 has it."""
    found = await state.reviews.get(f"{RUN}/{child}/x")
    assert found is not None
    return found


async def test_what_is_decided_later_is_taken_over_by_the_owner(states: tuple[OpenStore, OpenStore]) -> None:
    """Whether a command decided it or another server, the last review last; L3 has it when the call returns."""
    one, two = states
    parent = await gone_on(one)
    await two.reviews.resolve(f"{RUN}/c2/x", value=["both"], by="ada", reason="neither")
    await command(f"{RUN}/c1/x", "--choice", "child")
    taken = await parent.settle_reviews()
    assert [(each.child_run_id, each.overtaken) for each in taken] == [("c1", False), ("c2", False)]
    assert (parent.context["x"], await stored(two)) == (["both"], ["both"])
    assert [(await review(two, child)).applied for child in ("c1", "c2")] == [True, True]
    assert await parent.settle_reviews() == []


async def test_what_the_run_has_written_since_stands(
    states: tuple[OpenStore, OpenStore], capsys: pytest.CaptureFixture[str]
) -> None:
    """On this server and on the one that goes on with it; whoever looks at the review sees that."""
    one, two = states
    parent = await gone_on(one)
    parent.context["x"] = "since"
    await command(f"{RUN}/c1/x", "--choice", "child")
    (taken,) = await parent.settle_reviews()
    assert (taken.overtaken, taken.variable) == (True, None)
    assert taken.reason.endswith(OVERTAKEN)
    await parent.release()
    again = await two.runs.resume(RUN)
    await command(f"{RUN}/c2/x", "--choice", "child")
    assert [each.overtaken for each in await again.settle_reviews()] == [True]
    assert (again.context["x"], await stored(one)) == ("since", "since")
    capsys.readouterr()
    assert await run_command("reviews", "show", f"{RUN}/c1/x") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["review"]["choice"], shown["overtaken"]) == ("child", True)


async def test_nobodys_answer_comes_late_too(settings: Settings) -> None:
    """The fallback's, from whichever server sweeps first."""
    how = msgspec.structs.replace(
        settings,
        journal_replicas=0,
        review_policy="go_on",
        run_on_conflict="manual_review",
        review_timeout_seconds=0.001,
        review_fallback="child_wins",
    )
    async with holdfast.connect(how) as one, holdfast.connect(how) as two:
        parent = await one.runs.begin("search", run_id=RUN)
        child = await one.runs.begin("look", parent=parent, run_id="c1")
        for run, value in ((parent, "mine"), (child, "of c1")):
            run.context["x"] = value
        child.context.mark_for_export("x", "parent_context")
        await child.complete()
        await parent.merge_children()

        async def decided() -> bool:
            return (await review(two, "c1")).status == "timed_out"

        await until(decided)
        await parent.settle_reviews()
        assert await stored(two) == "of c1"
