"""`holdfast runs`, on real servers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_secrets import OLD
from holdfast import NotFound, NotOwner, Settings
from holdfast.errors import ContextCorrupt, KeyMissing
from holdfast.node import OpenStore
from holdfast.run_context.snapshots import base_id, snapshot_id

Command = Callable[..., Awaitable[tuple[int, list[dict[str, Any]]]]]


@pytest.fixture
async def state(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenStore]:
    """A server, and its tiers for commands."""
    name_servers(settings, monkeypatch)
    async with holdfast.connect(msgspec.structs.replace(settings, journal_replicas=0, master_keys=(OLD,))) as state:
        yield state


@pytest.fixture
def runs(state: OpenStore, capsys: pytest.CaptureFixture[str]) -> Command:
    """Status and output of `holdfast runs ...`, for programs."""

    async def run(*words: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        status = await run_command("runs", *words)
        return status, [json.loads(each) for each in capsys.readouterr().out.splitlines()]

    return run


async def test_runs_are_listed_by_what_they_are(state: OpenStore, runs: Command) -> None:
    """Those begun last first, page by page; each condition leaves some out."""
    one = await state.runs.begin("research", run_id="r1", swarm_id="s1")
    await state.runs.begin("write", run_id="r2", parent=one)
    async with state.runs.begin("research", run_id="r3"):
        pass

    async def listed(*words: str) -> list[str]:
        return [each["id"] for each in (await runs("list", *words))[1]]

    assert await listed() == ["r3", "r2", "r1"]
    assert await listed("--swarm", "s1") == ["r2", "r1"]
    assert await listed("--status", "completed") == ["r3"]
    assert await listed("--routine", "research", "--limit", "1") == ["r3"]
    _, (last,) = await runs("list", "--limit", "1")
    assert await listed("--after", str(last["cursor"])) == ["r2", "r1"]
    assert await listed("--parent", "r1") == ["r2"]
    assert await listed("--orphaned") == []
    await one.release()
    assert await listed("--orphaned") == ["r1"]


async def test_a_run_is_shown_without_what_is_secret(state: OpenStore, runs: Command) -> None:
    """No value whose sensitivity is closed is in any output, nor any that has none: those are only named."""
    async with state.runs.begin("research", {"topic": "hidden-1"}, run_id="r1") as run:
        for level in ("public", "internal", "confidential", "secret", "pii"):
            run.context.set(level, f"value-{level}", sensitivity=level)
        run.context["long"] = "x" * 1000
        run.context.intermediate["draft"] = "hidden-2"
        async with run.step("search") as step:
            step.result = "hidden-3"
        assert await run.checkpoint() == 1
        run.context["public"] = "later"
    status, (shown,) = await runs("show", "r1")
    assert (status, shown["status"], shown["run"]["routine"]) == (0, "completed", "research")
    values = {each["name"]: each["value"] for each in shown["variables"]}
    assert values.pop("long") == "'" + "x" * 56 + "..."
    assert values == {
        "public": "'later'",
        "internal": "'value-internal'",
        "confidential": "(secret)",
        "secret": "(secret)",
        "pii": "(pii)",
    }
    assert (shown["inputs"], shown["intermediate"]) == (["topic"], ["draft"])
    assert [(each["id"], each["status"]) for each in shown["steps"]] == [("search", "completed")]
    assert not shown["lost"]["snapshots"]
    _, (before,) = await runs("show", "r1", "--at", "1", "--limit", "1")
    assert (before["at"], before["status"], before["left_out"]) == (1, "running", {"variables": 5})
    _, differences = await runs("diff", "r1", "0", "1")
    assert {"section": "variables", "key": "pii", "what": "added", "before": None, "after": "(pii)"} in differences
    everything = json.dumps([shown, before, differences])
    assert not re.search("value-(confidential|secret|pii)|hidden-", everything)


async def test_a_value_that_became_secret_is_not_told_by_a_difference(state: OpenStore, runs: Command) -> None:
    """Nor is the one before, which may be the same; what is open on both sides is told, and what is new."""
    async with state.runs.begin("research", run_id="r1") as run:
        run.context.set("key", "value-1", sensitivity="internal")
        run.context["open"] = 1
        await run.checkpoint()
        run.context.set("key", "value-1", sensitivity="secret")
        run.context["open"] = None
        run.context.intermediate["none"] = None
        await run.checkpoint()
    _, lines = await runs("diff", "r1", "1")
    assert {each["key"]: (each["what"], each["before"], each["after"]) for each in lines} == {
        "status": ("changed", "running", "completed"),
        "key": ("changed", "(secret)", "(secret)"),
        "open": ("changed", "1", "None"),
        "none": ("added", None, None),
    }
    assert await runs("diff", "r1", "3") == (0, [])


async def test_a_tree_is_shown_from_any_run_of_it(state: OpenStore, runs: Command) -> None:
    """The root first, each run before those below it in the order they were begun; never more than was asked for."""
    root = await state.runs.begin("root", run_id="a")
    left = await state.runs.begin("left", run_id="b", parent=root)
    await state.runs.begin("leaf", run_id="c", parent=left)
    await state.runs.begin("right", run_id="d", parent=root)
    await state.runs.begin("other", run_id="z")
    for name in "abcd":
        _, lines = await runs("tree", name)
        assert [(each["id"], each["depth"]) for each in lines] == [("a", 0), ("b", 1), ("c", 2), ("d", 1)]
    for limit in (1, 2, 3):
        _, lines = await runs("tree", "c", "--limit", str(limit))
        assert [each["id"] for each in lines] == ["a", "b", "c"][:limit] if limit != 2 else ["a", "d"]
    with pytest.raises(NotFound, match="there is no run nowhere; `holdfast runs list`"):
        await runs("tree", "nowhere")


async def test_history_goes_on_behind_the_last_one(state: OpenStore, runs: Command) -> None:
    """The base that the run began with, then a delta a checkpoint."""
    async with state.runs.begin("research", run_id="r1") as run:
        await run.checkpoint()
    _, snapshots = await runs("history", "r1")
    names = [base_id("r1", 0), snapshot_id("r1", 1), snapshot_id("r1", 2)]
    assert [each["id"] for each in snapshots] == names
    assert all(each["bytes"] > 0 for each in snapshots)
    _, rest = await runs("history", "r1", "--limit", "1", "--after", names[0])
    assert [each["id"] for each in rest] == names[1:2]
    for command in ("history", "show"):
        with pytest.raises(NotFound, match="there is no run r2"):
            await runs(command, "r2")
    with pytest.raises(NotFound, match="no snapshot 9"):
        await runs("diff", "r1", "9")


async def test_a_run_is_taken_over_and_let_go_of(
    state: OpenStore, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """By force while its server lives; then any server finds it, and its owner of before cannot write any more."""
    run = await state.runs.begin("research", run_id="r1")
    async with run.step("search"):
        run.context["found"] = 3
    with pytest.raises(NotOwner, match="is alive"):
        await run_command("runs", "resume", "r1")
    assert await run_command("runs", "resume", "r1", "--force") == 0
    assert "r1: nothing is lost; 1 steps, 1 variables, epoch 2\n" in capsys.readouterr().out
    assert [each.id for each in await state.runs.list(orphaned=True)] == ["r1"]
    with pytest.raises(NotOwner):
        await run.checkpoint()
    again = await state.runs.resume("r1")
    assert (again.epoch, again.context["found"]) == (3, 3)


async def test_what_is_lost_is_told_and_repaired(
    state: OpenStore, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 1 once; the next one finds the run whole. With no base left it is an error, and nothing is made."""
    run = await state.runs.begin("research", run_id="r1")
    async with run.step("search"):
        run.context["found"] = 3
    await run.checkpoint()
    await run.pause()
    await _damage(settings, snapshot_id("r1", 1))
    assert await run_command("runs", "resume", "r1") == 1
    assert "lost: 1 ends of steps, 1 variables (found)" in capsys.readouterr().out
    assert await run_command("runs", "resume", "r1") == 0
    await state.runs.begin("research", run_id="r2")
    await _damage(settings, base_id("r2", 0))
    with pytest.raises(ContextCorrupt):
        await run_command("runs", "resume", "r2", "--force")


async def test_a_fork_goes_on_from_a_snapshot(state: OpenStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The id of the new run is all that is on stdout; the old one is as it was."""
    async with state.runs.begin("research", run_id="r1") as run:
        run.context["n"] = 1
        await run.checkpoint()
        run.context["n"] = 2
    capsys.readouterr()
    assert await run_command("runs", "fork", "r1", "--at", "1", "--id", "r2") == 0
    assert await run_command("runs", "fork", "r1") == 0
    first, second = capsys.readouterr().out.split()
    assert first == "r2"
    assert (await state.runs.resume(first)).context["n"] == 1
    assert (await state.runs.resume(second)).context["n"] == 2
    old = await state.runs.get("r1")
    assert old is not None
    assert old.run.status == "completed"


async def test_a_terminal_gets_words(
    state: OpenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables and sentences, and what rich takes for markup as it is; JSON only if it is asked for."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "250")
    await run_command("runs", "list")
    assert "there is no such run" in capsys.readouterr().out
    async with state.runs.begin("[red]", run_id="r1", swarm_id="s1") as run:
        run.context["name"] = "[b]ada[/b]"
        async with run.step("search"):
            pass
    child = await state.runs.begin("below", run_id="r2", swarm_id="s1")
    await child.pause()

    async def printed(*words: str) -> str:
        await run_command("runs", *words)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    assert re.search(r"r1 +\[red\] +s1 +completed", await printed("list"))
    shown = await printed("show", "r1")
    assert "run r1 of [red]: completed\n" in shown
    assert re.search(r"name +'\[b\]ada\[/b\]' +internal +step", shown)
    assert re.search(r"search +completed", shown)
    assert "run r1 of [red]: running, as of snapshot 0\n" in await printed("show", "r1", "--at", "0")
    assert "r2  paused  below  <--\n" in await printed("tree", "r2")
    assert "nothing is different" in await printed("diff", "r1", "1")
    assert re.search(r"r1/00000000\.base +\d+ +\d{4}-", await printed("history", "r1"))
    assert json.loads(await printed("show", "r1", "--json"))["run"]["id"] == "r1"


async def _damage(settings: Settings, snapshot: str) -> None:
    """Change a snapshot, as a disk does: past what keeps history from being changed."""
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        async with connection.transaction():
            await connection.execute('ALTER TABLE holdfast."RunContextSnapshot" DISABLE TRIGGER USER')
            done = await connection.execute(
                """UPDATE holdfast."RunContextSnapshot" SET document = jsonb_set(document::jsonb, '{sha256}', '"0"')
                WHERE id = $1""",
                snapshot,
            )
            assert done == "UPDATE 1"
            await connection.execute('ALTER TABLE holdfast."RunContextSnapshot" ENABLE TRIGGER USER')
    finally:
        await connection.close()


@pytest.mark.parametrize("command", ["list", "show", "tree", "history", "diff", "resume", "fork", "rebuild"])
async def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`holdfast runs --help` names it, and its own help says what each of its words means; no server is asked."""
    await run_command("runs", "--help")
    assert f"{command} " in capsys.readouterr().out
    await run_command("runs", command, "--help")
    said = capsys.readouterr().out
    assert f"Usage: holdfast runs {command}" in re.sub(r"\s+", " ", said)
    assert ("--orphaned" if command == "list" else "Id of") in said


async def test_a_secret_is_revealed_to_whoever_says_why(
    state: OpenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, by another process; who and why is in the audit log, and the value is not. Without the key it is not."""
    async with state.runs.begin("research", run_id="r1", secrets={"token": {"first": (1, "qzvxwj")}}):
        pass
    words = ("runs", "reveal", "r1", "token", "--reason", "an audit", "--by", "ada")
    with pytest.raises(KeyMissing, match="master_keys"):
        await run_command(*words)
    monkeypatch.setenv("HOLDFAST_MASTER_KEYS", OLD)
    capsys.readouterr()
    assert await run_command(*words) == 0
    told = capsys.readouterr()
    assert (json.loads(told.out), "qzvxwj" in told.err) == ({"first": {"$tuple": [1, "qzvxwj"]}}, False)
    notes = [entry.note for entry in await state.audit.list()]
    assert [(each.action, each.subject, each.actor, each.reason) for each in notes] == [
        ("revealed", "run:r1", "ada", "an audit")
    ] * 2
    assert "qzvxwj" not in repr(notes)
    with pytest.raises(NotFound, match="no variable card"):
        await run_command("runs", "reveal", "r1", "card", "--reason", "an audit")


async def test_what_is_left_of_a_run_is_begun_anew(
    state: OpenStore, settings: Settings, runs: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said first what there would be; with --yes it is begun, and the old run stays as it is."""
    run = await state.runs.begin("research", {"topic": "ants"}, run_id="r1")
    run.context["n"] = 1
    await run.checkpoint()
    await _damage(settings, base_id("r1", 0))
    await run.pause()
    status, printed = await runs("rebuild", "r1")
    assert (status, printed) == (1, [])
    assert [each.id for each in await state.runs.list()] == ["r1"]
    capsys.readouterr()
    assert await run_command("runs", "rebuild", "r1", "--yes", "--id", "r2") == 0
    shown = capsys.readouterr()
    assert shown.out == "r2\n"
    assert "1 damaged snapshots" in shown.err
    resumed = await state.runs.resume("r2")
    assert resumed.context["n"] == 1
    with pytest.raises(ContextCorrupt):
        await state.runs.get("r1")


async def test_of_a_run_of_which_nothing_is_left_none_is_promised(
    state: OpenStore, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said that none can be begun, not that `--yes` does it."""
    await state.runs.begin("research", run_id="r1")
    await _damage(settings, base_id("r1", 0))
    capsys.readouterr()
    assert await run_command("runs", "rebuild", "r1") == 1
    assert "nothing of r1 verifies: no run can be begun of it" in capsys.readouterr().err
