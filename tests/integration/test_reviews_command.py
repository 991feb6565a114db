"""Reviews on real servers: opened on one, decided from a shell, or by whoever sweeps first."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_feed import connected
from fix_races import until
from fix_reviews import CHILD, PARENT
from fix_secrets import NEW
from fix_tiers import flows_of
from holdfast import ReviewSettled, Settings, SettingsError
from holdfast.documents import ContextVariable
from holdfast.errors import KeyMissing, RunOver
from holdfast.node import OpenStore
from holdfast.protocols import Settled
from holdfast.reviews.reviewer import MergeReviewer
from holdfast.settings import PREFIX

ID: Final = "r1/c1/site"
Command = Callable[..., Awaitable[tuple[int, list[dict[str, Any]]]]]


@pytest.fixture
async def state(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenStore]:
    """Server A, which runs a run, and its tiers for commands."""
    name_servers(settings, monkeypatch)
    async with holdfast.connect(msgspec.structs.replace(settings, journal_replicas=0)) as state:
        await state.runs.begin("search", run_id="r1")
        yield state


@pytest.fixture
def reviews(state: OpenStore, capsys: pytest.CaptureFixture[str]) -> Command:
    """Status and output of `holdfast reviews ...`, for programs."""

    async def run(*words: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        status = await run_command("reviews", *words)
        lines = capsys.readouterr().out.splitlines()
        return status, [json.loads(each) for each in lines if each.startswith("{")]

    return run


def reviewer(state: OpenStore, patience_seconds: float = 600.0, epoch: int = 1) -> MergeReviewer:
    """One of a run on a server."""
    flows = flows_of(state).run_flows
    return MergeReviewer(flows.reviews, flows.review_changes, epoch, patience_seconds=patience_seconds)


async def merged(state: OpenStore, child: ContextVariable = CHILD) -> Settled:
    """What a merge does: ask, and wait until it may be worth asking again."""
    merge = reviewer(state)
    while (settled := await merge.settle("r1", "c1", PARENT, child)) is None:
        await merge.changed()
    return settled


async def opened(state: OpenStore, child: ContextVariable = CHILD, parent: ContextVariable | None = PARENT) -> None:
    """Open a review."""
    assert await reviewer(state).settle("r1", "c1", parent, child) is None


async def test_a_review_opened_on_one_server_and_decided_by_another_process_lets_the_run_go_on(
    settings: Settings, state: OpenStore
) -> None:
    """The merge waits on A; `holdfast reviews resolve` is a server of its own; A is woken by its change feed."""
    waiting = asyncio.ensure_future(merged(state))

    async def is_open() -> bool:
        return bool(await state.reviews.list())

    await until(is_open)
    assert not waiting.done()
    words = ["reviews", "resolve", ID, "--choice", "child", "--reason", "she knows", "--by", "ada"]
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=_environment(settings))
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, f"{ID}: resolved by ada, for: child\n")
    settled = await asyncio.wait_for(waiting, 30)
    assert (settled.variable, settled.reason) == (CHILD, "resolved by ada: she knows")
    (entry,) = await state.audit.list()
    assert (entry.note.actor, entry.note.subject, entry.note.reason) == ("ada", f"review:{ID}", "she knows")
    assert (await state.audit.verify()).broken is None


async def test_what_nobody_answers_is_decided_once(settings: Settings) -> None:
    """Behind its deadline, by L3's clock, whichever of two servers sweeps; the run goes on, and one record says so."""
    soon = msgspec.structs.replace(
        settings, journal_replicas=0, review_timeout_seconds=0.05, review_fallback="keep_latest"
    )
    async with holdfast.connect(soon) as one, holdfast.connect(soon) as two:
        await one.runs.begin("search", run_id="r1")
        settled = await asyncio.wait_for(merged(one), 60)
        assert settled.variable == CHILD
        assert "no person answered until" in settled.reason
        sweepers = [flows_of(state).run_flows.review_sweeper for state in (one, two)]
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        review = await two.reviews.get(ID)
        assert review is not None
        assert (review.status, review.choice) == ("timed_out", "child")
        (entry,) = await two.audit.list()
        assert (entry.note.action, entry.note.actor) == ("resolved", review.resolved_by)
        with pytest.raises(ReviewSettled, match="had timed out"):
            await two.reviews.resolve(ID, choice="parent", by="ada", reason="too late")


async def test_two_who_sweep_at_the_same_moment_make_one_record(settings: Settings) -> None:
    """In L3 the second waits for the first one's lock, and finds it decided."""
    soon = msgspec.structs.replace(settings, journal_replicas=0, review_timeout_seconds=0.001)
    async with holdfast.connect(soon) as one, holdfast.connect(soon) as two:
        await one.runs.begin("search", run_id="r1")
        states = (one, two)
        for state in states:
            await flows_of(state).run_flows.review_sweeper.stop()
        for number in range(20):
            assert await reviewer(one).settle("r1", f"c{number}", PARENT, CHILD) is None
        sweepers = [flows_of(state).run_flows.review_sweeper for state in states]
        await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
        assert sum(sweeper.timed_out for sweeper in sweepers) == 20
        assert len(await two.audit.list()) == 20
        assert await two.reviews.list() == []


async def test_a_sweeper_and_a_person_cannot_both_decide(settings: Settings) -> None:
    """Whoever is second is told who was first; the records are as many as the reviews."""
    soon = msgspec.structs.replace(settings, journal_replicas=0, review_timeout_seconds=0.001)
    async with holdfast.connect(soon) as one, holdfast.connect(soon) as two:
        await one.runs.begin("search", run_id="r1")
        for number in range(20):
            assert await reviewer(one).settle("r1", f"c{number}", PARENT, CHILD) is None
        names = [each.id for each in await one.reviews.list(status=None)]

        async def resolve(name: str) -> str:
            try:
                return (await two.reviews.resolve(name, choice="child", by="ada", reason="why")).resolved_by
            except ReviewSettled as late:
                return late.by

        deciders, _ = await asyncio.gather(
            asyncio.gather(*map(resolve, names)), flows_of(one).run_flows.review_sweeper.sweep()
        )
        stored = {each.id: each.review.resolved_by for each in await one.reviews.list(status=None)}
        assert dict(zip(names, deciders, strict=True)) == stored
        recorded = {entry.note.subject: entry.note.actor for entry in await one.audit.list()}
        assert recorded == {f"review:{name}": by for name, by in stored.items()}
        assert (await one.audit.verify()).entries == 20


async def test_reviews_are_listed_shown_and_decided(state: OpenStore, reviews: Command) -> None:
    """Both values side by side, by whom it was opened, and until when."""
    await opened(state)
    _, (listed,) = await reviews("list")
    assert (listed["id"], listed["status"], listed["policy"]) == (ID, "open", "wait")
    _, (shown,) = await reviews("show", ID)
    assert (shown["parent"]["value"], shown["child"]["value"]) == ("'north'", "'south'")
    assert shown["review"]["deadline"] > shown["review"]["opened_at"]
    assert await reviews("resolve", ID, "--value", '{"$tuple": [1, "east"]}', "--reason", "neither") == (0, [])
    review = await state.reviews.get(ID)
    assert review is not None
    assert review.resolved is not None
    assert review.resolved.value == (1, "east")
    assert await reviews("list") == (0, [])
    _, (decided,) = await reviews("list", "--status", "any", "--run", "r1")
    assert decided["choice"] == "value"
    with pytest.raises(ReviewSettled, match=re.escape(review.resolved_by)):
        await reviews("resolve", ID, "--choice", "child", "--reason", "again")
    with pytest.raises(holdfast.NotFound, match="there is no review r1/c2/site"):
        await reviews("show", "r1/c2/site")


@pytest.mark.parametrize("level", ["secret", "pii", "confidential", "a later word"])
async def test_what_is_closed_is_shown_on_neither_side(state: OpenStore, reviews: Command, level: str) -> None:
    """If one side is closed the other may well be the same."""
    await opened(state, child=msgspec.structs.replace(CHILD, value="hidden-1", sensitivity=level))
    _, (shown,) = await reviews("show", ID)
    assert (shown["parent"]["value"], shown["child"]["value"]) == ("(secret)", "(secret)")
    _, listed = await reviews("list")
    assert not re.search("hidden-1|north", json.dumps([shown, listed]))


@pytest.mark.parametrize("level", ["secret", "pii", "a later word"])
async def test_a_secret_is_not_taken_from_the_command_line(
    state: OpenStore,
    reviews: Command,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others can read that; from the standard input it is, by a server that has keys to seal it."""
    await opened(state, parent=msgspec.structs.replace(PARENT, sensitivity=level))
    with pytest.raises(SettingsError, match="--value-file -") as refused:
        await reviews("resolve", ID, "--value", '"hidden-1"', "--reason", "why")
    assert "hidden-1" not in str(refused.value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"hidden-1"')))
    with pytest.raises(KeyMissing, match="master_keys"):
        await reviews("resolve", ID, "--value-file", "-", "--reason", "why")
    assert await reviews("resolve", ID, "--choice", "parent", "--reason", "why") == (0, [])


async def test_nor_is_one_for_what_became_secret_since(
    settings: Settings, reviews: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has it by now; from a file it is taken, and stands nowhere in the row of the review."""
    monkeypatch.setenv(PREFIX + "MASTER_KEYS", NEW)
    async with holdfast.connect(msgspec.structs.replace(settings, journal_replicas=0, master_keys=(NEW,))) as keyed:
        run = await keyed.runs.resume("r1", force=True)
        assert await reviewer(keyed, epoch=run.epoch).settle("r1", "c1", PARENT, CHILD) is None
        run.context.set("site", "north", sensitivity="secret")
        await run.checkpoint()
        with pytest.raises(SettingsError, match="is about a variable that is secret"):
            await reviews("resolve", ID, "--value", '"hidden-1"', "--reason", "why")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"hidden-1"')))
        await reviews("resolve", ID, "--value-file", "-", "--reason", "why")
        async with connected(settings.postgres_url) as sql:
            (row,) = await sql.fetch('SELECT document::text AS document FROM holdfast."Review"')
        assert "hidden-1" not in str(row["document"])


async def test_a_decision_that_would_reach_nobody_is_refused(state: OpenStore, reviews: Command) -> None:
    """The run has ended meanwhile."""
    await opened(state)
    await (await state.runs.resume("r1", force=True)).cancel()
    with pytest.raises(RunOver, match="run r1 is cancelled: a decision would reach nobody"):
        await reviews("resolve", ID, "--choice", "child", "--reason", "why")


async def test_what_is_too_large_is_listed_without_its_values(state: OpenStore, reviews: Command) -> None:
    """As decided; on real servers the second time finds the first."""
    for _ in range(2):
        settled = await reviewer(state).settle("r1", "c1", PARENT, msgspec.structs.replace(CHILD, value="x" * 600_000))
        assert settled is not None
        assert settled.variable == PARENT
    _, (shown,) = await reviews("show", ID)
    assert (shown["parent"]["value"], shown["child"]["value"]) == ("(too large)", "(too large)")
    assert (shown["review"]["status"], shown["review"]["choice"]) == ("timed_out", "fallback")
    assert len(await state.audit.list()) == 1


async def test_a_value_is_read_from_a_file(state: OpenStore, reviews: Command, tmp_path: Path) -> None:
    """No larger than is allowed, and JSON; what is wrong is told without a word of it."""
    await opened(state)
    file = tmp_path / "value.json"
    for text, words in ((b'"hidden-1', "no JSON"), (b'"' + b"x" * 70_000 + b'"', "at most 65536 bytes")):
        file.write_bytes(text)
        with pytest.raises(SettingsError, match=words) as refused:
            await reviews("resolve", ID, "--value-file", str(file), "--reason", "why")
        assert "hidden-1" not in str(refused.value)
    with pytest.raises(SettingsError, match="No such file"):
        await reviews("resolve", ID, "--value-file", str(tmp_path / "nowhere"), "--reason", "why")
    with pytest.raises(SettingsError, match="give one of"):
        await reviews("resolve", ID, "--reason", "why")
    file.write_text("[1, 2]")
    await reviews("resolve", ID, "--value-file", str(file), "--reason", "why")
    review = await state.reviews.get(ID)
    assert review is not None
    assert review.resolved is not None
    assert review.resolved.value == [1, 2]


async def test_a_terminal_gets_words(
    state: OpenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table with both sides, and what rich takes for markup as it is."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    async def printed(*words: str) -> str:
        capsys.readouterr()
        await run_command("reviews", *words)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    assert "there is no such review" in await printed("list")
    await opened(state, child=msgspec.structs.replace(CHILD, value="[b]south[/b]"))
    assert re.search(r"r1/c1/site +open", await printed("list"))
    shown = await printed("show", ID)
    assert re.search(r"value +'north' +'\[b\]south\[/b\]'", shown)
    assert re.search(r"the run waits until .*, then parent_wins", shown)
    await state.reviews.resolve(ID, choice="child", by="ada", reason="she knows")
    assert re.search(r"decided .* by ada: child, she knows", await printed("show", ID))


def _environment(settings: Settings) -> dict[str, str]:
    """What lets a process use this test's servers."""
    own = {PREFIX + name: os.environ[PREFIX + name] for name in ("POSTGRES_URL", "REDIS_URLS", "KEY_PREFIX")}
    assert own[PREFIX + "POSTGRES_URL"] == settings.postgres_url
    return {**os.environ, **own}
