"""Exports, merges and deliveries on real servers, whose owners are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_races import until
from fix_secrets import NEW
from fix_write_behind import lines_in, patient, processes, until_lines
from holdfast import Settings, Swarm
from holdfast.documents import Delivery
from holdfast.kinds import EXPORT
from holdfast.node import process_name
from holdfast.run_context import delivering
from integration.test_runs import resumed_by
from write_behind_child import write_exports

RUN = "run-1"
CHILDREN = 30


async def test_all_that_leaves_a_run_is_there_for_another_server(settings: Settings) -> None:
    """Its variables for the parent, an item, a document; what is refused is told; strange names and texts are kept."""
    name = "\u00fc'\" \\ x"
    keyed = msgspec.structs.replace(settings, master_keys=(NEW,))
    async with holdfast.connect(keyed) as one, holdfast.connect(keyed) as two:
        await one.swarms.put("w", Swarm())
        parent = await one.runs.begin("search", run_id=RUN, swarm_id="w")
        child = await one.runs.begin("look", parent=parent, run_id="child")
        child.context[name] = {"\\u0000": ["'", '"', "\\"]}
        child.context.set("token", "hidden", sensitivity="secret")
        for place in ("parent_context", "blackboard", "persistent_store"):
            child.context.mark_for_export(name, place)
            child.context.mark_for_export("token", place)
        child.context.mark_for_export(name, "external_system", exporter="crm")
        await child.complete()
        row = await two.runs.row("child", consistency=holdfast.Consistency.STRONG)
        assert row is not None
        assert (row.status, [*row.exported], row.changes) == ("completed", [name, "token"], [])
        assert [(each.key, each.destination) for each in row.refused_exports] == [
            ("token", "blackboard"),
            ("token", "persistent_store"),
        ]
        swarm = await two.swarms.get("w", consistency=holdfast.Consistency.STRONG)
        assert swarm is not None
        assert [item.id for item in swarm.blackboard] == [f"child/{name}"]
        exported = await two.collection(EXPORT).get(f"child/{name}")
        assert exported is not None
        assert exported.value == child.context[name]
        assert [(each.id, each.attempts) for each in await two.deliveries.list()] == [(f"child/crm/{name}", 0)]
        await parent.merge_children()
        assert {**parent.context} == {name: child.context[name], "token": "hidden"}


@pytest.mark.timeout(180)
async def test_an_owner_is_killed_between_two_children(settings: Settings, tmp_path: Path) -> None:
    """Whoever goes on merges what was not, in the order of their begin: each once."""
    file = tmp_path / "ledger"
    calm = patient(settings, write_behind_takeover_seconds=2.0)
    async with processes(calm, tmp_path) as (owner,), holdfast.connect(calm) as new:
        owner.order("MergeOn", file=str(file), run=RUN, children=CHILDREN)
        await until_lines(file, CHILDREN // 3)
        await owner.kill()
        merged = lines_in(file)
        parent = await resumed_by(new, force=False)
        assert parent.context["last"] in {f"{RUN}.{number:02}" for number in (merged - 1, merged)}
        left = await parent.merge_children()
        open_ = [each.id for each in await new.runs.list(parent_run_id=RUN, status="running", limit=CHILDREN)]
        assert left.waits_for == min(open_)
        for name in reversed(open_):
            child = await new.runs.resume(name)
            write_exports(child)
            await child.complete()
        done = [each.id for each in (*left.children, *(await parent.merge_children()).children)]
        names = [f"{RUN}.{number:02}" for number in range(CHILDREN)]
        assert done == names[-len(done) :]
        assert CHILDREN - len(done) in {merged, merged + 1}
        assert {**parent.context} == {"last": names[-1], **{name: name for name in names}}


async def test_deliveries_from_the_command_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server brings out what it can; a dead one is shown, retried, and discarded by the command."""
    name_servers(settings, monkeypatch)
    monkeypatch.setattr(delivering, "POLL_SECONDS", 0.02)
    keys: list[str] = []
    is_down = True

    async def crm(delivery: Delivery, key: str) -> None:
        assert delivery.value == 1
        keys.append(key)
        if is_down:
            raise ConnectionError("no route")

    once = msgspec.structs.replace(settings, delivery_attempts_max=1)
    async with holdfast.connect(once, exporters={"crm": crm}) as state:
        await leave(state, "a")
        await leave(state, "b")

        async def both_dead() -> bool:
            return len(await state.deliveries.list(dead=True)) == 2

        await until(both_dead)
        assert await run_command("exports", "list", "--dead") == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(each["id"], each["exporter"], each["dead"]) for each in shown] == [
            ("a/crm/x", "crm", True),
            ("b/crm/x", "crm", True),
        ]
        assert "no route" in shown[0]["error"]
        assert await run_command("exports", "discard", "b/crm/x", "c/crm/x", "--reason", "of no use") == 1
        is_down = False
        assert await run_command("exports", "retry", "a/crm/x", "--by", "ada") == 0

        async def out() -> bool:
            return not await state.deliveries.list()

        await until(out)
        assert len([key for key in keys if key.startswith("a/")]) == 2
        assert len(set(keys)) == 2
        capsys.readouterr()
        assert await run_command("exports", "list") == 0
        assert await run_command("exports", "retry", "a/crm/x") == 1
        noted = [entry.note for entry in await state.audit.list()]
        assert [(each.action, each.subject, each.actor, each.reason) for each in noted] == [
            ("discarded", "delivery:b/crm/x", process_name(), "of no use"),
            ("replayed", "delivery:a/crm/x", "ada", "by hand"),
        ]


async def leave(state: Any, name: str) -> None:
    """A run that leaves a value for the system outside."""
    async with state.runs.begin("search", run_id=name) as run:
        run.context["x"] = 1
        run.context.mark_for_export("x", "external_system", exporter="crm")
