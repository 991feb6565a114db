"""Children whose exported secrets cannot be opened: what may come right is waited for, what cannot is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fix_run_servers import RUN, Hall, hall
from fix_secrets import NEW, OLD
from holdfast.documents import ContextVariable, Sealed
from holdfast.entry import MISSING
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.child_merging import ChildMerging


async def completed(at: Hall, parent: ActiveRun, name: str, **secrets: str) -> None:
    """A child that has exported secrets of its own, and `plain`, its name."""
    async with at.a.begin("look", parent=parent, run_id=name, secrets=secrets) as child:
        child.context["plain"] = name
        for key in ("plain", *secrets):
            child.context.mark_for_export(key, "parent_context")


async def tamper(at: Hall, name: str, key: str, *, at_byte: int) -> None:
    """Let L3 hold another byte in a secret that a child has exported."""
    row = at.row(name)
    variable = row.exported[key]
    assert type(variable.value) is Sealed
    content = bytearray(variable.value.content)
    content[at_byte] ^= 2
    exported: dict[str, ContextVariable] = {
        **row.exported,
        key: msgspec.structs.replace(variable, value=Sealed(bytes(content))),
    }
    await at.servers["a"].store.collections["run"].put(name, msgspec.structs.replace(row, exported=exported))


async def parent_of(at: Hall, strategy: str = "child_wins") -> ActiveRun:
    """A run that merges."""
    parent: ActiveRun = await at.a.begin("search", run_id=RUN, on_conflict=strategy, secrets={"known": "of the parent"})
    return parent


@pytest.mark.parametrize("strategy", ["child_wins", "parent_wins"])
async def test_a_secret_that_was_tampered_with_is_left_out(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    """Opposed or not: what the parent has stands. All else of the child, and those behind it, is merged."""
    async with hall("a", master_keys=(NEW,)) as at:
        parent = await parent_of(at, strategy)
        await completed(at, parent, "c1", token="t1", known="k1", whole="w1")
        await completed(at, parent, "c2", late="l2")
        parent.context["known"] = "of the parent again"
        for key in ("token", "known"):
            await tamper(at, "c1", key, at_byte=-1)
        merge = await parent.merge_children()
        assert ([each.id for each in merge.children], merge.waits_for, merge.fault) == (["c1", "c2"], None, None)
        assert dict(parent.context) == {
            "known": "of the parent again",
            "plain": "c2" if strategy == "child_wins" else "c1",
            "whole": "w1",
            "late": "l2",
        }
        told = {each.variable_name: each for each in merge.children[0].resolutions}
        assert told["token"].value is MISSING
        assert "left out" in told["token"].reason
        assert told["known"].value == parent.context.variable("known").value
        assert ("left out" in told["known"].reason) == (strategy == "child_wins")
        assert "leaves out what c1 exported as token" in caplog.text
        assert "t1" not in caplog.text


async def closed(at: Hall) -> tuple[Any, Any]:
    """What a server with another master key merges where the second of three children has a secret; then the first."""
    parent = await parent_of(at)
    await completed(at, parent, "c0")
    await completed(at, parent, "c1", token="t1")
    await completed(at, parent, "c2")
    await parent.release()
    at.settings = msgspec.structs.replace(at.settings, master_keys=(NEW,))
    async with at.server("b"):
        other = await at.b.resume(RUN)
        waiting = await other.merge_children(wait=True)
        await other.release()
    return waiting, await (await at.a.resume(RUN)).merge_children()


async def test_a_secret_whose_key_is_missing_is_waited_for() -> None:
    """It holds back its child and those behind it, which says why; a server that has the key goes on."""
    async with hall("a", master_keys=(OLD,)) as at:
        waiting, merge = await closed(at)
        assert ([each.id for each in waiting.children], waiting.waits_for) == (["c0"], "c1")
        assert "master key old" in waiting.fault
        assert not waiting.needs_review
        assert [each.id for each in merge.children] == ["c1", "c2"]


async def test_a_secret_of_a_later_version_is_waited_for() -> None:
    """This one cannot tell whether it was tampered with."""
    async with hall("a", master_keys=(NEW,)) as at:
        parent = await parent_of(at)
        await completed(at, parent, "c1", token="t1")
        await tamper(at, "c1", "token", at_byte=0)
        merge = await parent.merge_children()
        assert (merge.children, merge.waits_for) == ((), "c1")
        assert merge.fault is not None
        assert "update it" in merge.fault
        assert parent.context.merged == 0


async def test_mutant_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a secret that was tampered with holds up all for ever."""

    def adopted(self: ChildMerging, name: str, standing: Any) -> Any:
        return {key: self._context.adopt(variable, name) for key, variable in standing.items()}, {}

    monkeypatch.setattr(ChildMerging, "_adopted", adopted)
    async with hall("a", master_keys=(NEW,)) as at:
        parent = await parent_of(at)
        await completed(at, parent, "c1", token="t1")
        await tamper(at, "c1", "token", at_byte=-1)
        assert (await parent.merge_children()).waits_for == "c1"
