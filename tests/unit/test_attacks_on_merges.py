"""What a child says of a variable never opens what its parent has closed; and ids of what leaves runs never meet."""

from __future__ import annotations

import pytest

from fix_run_servers import RUN, Hall, hall
from fix_secrets import NEW
from holdfast.documents import Sealed, Swarm
from holdfast.errors import InvalidDocument
from holdfast.keys import joined_id
from holdfast.kinds import EXPORT
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.variables import Variables

SECRET = "PLAIN-SECRET"


async def merged(at: Hall, strategy: str, level: str = "public", *, parent_writes: bool = True) -> ActiveRun:
    """A parent with a secret, after it has merged a child that wrote the variable as something public."""
    parent: ActiveRun = await at.a.begin("search", run_id=RUN, on_conflict=strategy)
    parent.context.set("token", "first", sensitivity="secret")
    child = await at.a.begin("look", parent=parent)
    child.context.set("token", "of the child", sensitivity=level, mutable=False)
    child.context.mark_for_export("token", "parent_context")
    if parent_writes:
        parent.context["token"] = "second"
    await child.complete()
    await parent.merge_children()
    return parent


@pytest.mark.parametrize("strategy", ["child_wins", "keep_latest", "parent_wins"])
@pytest.mark.parametrize("parent_writes", [True, False])
async def test_a_secret_stays_one_whatever_a_child_says(strategy: str, *, parent_writes: bool) -> None:
    """Opposed or not; and what is written to it afterwards is sealed as before."""
    async with hall("a", master_keys=(NEW,)) as at:
        parent = await merged(at, strategy, parent_writes=parent_writes)
        variable = parent.context.variable("token")
        assert (variable.sensitivity, type(variable.value), variable.mutable) == ("secret", Sealed, True)
        parent.context["token"] = SECRET
        await parent.checkpoint()
        assert not [key for key, row in at.l3.log.rows.items() if SECRET.encode() in row.body]


async def test_mutant_a_childs_label_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the next write is plain in L3."""
    monkeypatch.setattr(Variables, "_taken_in", lambda _, variable: variable)
    async with hall("a", master_keys=(NEW,)) as at:
        parent = await merged(at, "child_wins")
        assert parent.context.variable("token").sensitivity == "public"


async def test_names_inside_of_a_secret_are_in_no_error() -> None:
    """Not where it cannot be stored either."""
    deep: dict[str, object] = {}
    deep[SECRET] = deep
    async with hall("a", master_keys=(NEW,)) as at:
        run = await at.a.begin("search", run_id=RUN)
        with pytest.raises(InvalidDocument) as caught:
            run.context.set("card", deep, sensitivity="secret")
        assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert caught.value.__suppress_context__


async def test_ids_of_what_leaves_never_meet() -> None:
    """Though ids of runs and keys may have slashes."""
    assert joined_id("a", "crm", "b/x") != joined_id("a/crm", "b", "x") != joined_id("a/crm/b", "x")
    async with hall("a") as at:
        for run_id, key in (("a", "b/x"), ("a/b", "x")):
            run = await at.a.begin("search", run_id=run_id)
            run.context[key] = run_id
            run.context.mark_for_export(key, "persistent_store")
            await run.complete()
        exports = at.servers["a"].store.collection(EXPORT)
        found = await exports.get_many([joined_id("a", "b/x"), joined_id("a/b", "x")])
        assert [None if each is None else each.value for each in found.values()] == ["a", "a/b"]


async def test_a_full_blackboard_keeps_no_run_from_its_end() -> None:
    """What has no place there is refused; the run completes."""
    async with hall("a") as at:
        await at.servers["a"].store.swarms.put("swarm1", Swarm(goal="x" * 1_047_000))
        run = await at.a.begin("search", run_id=RUN, swarm_id="swarm1")
        run.context["x"] = "y" * 2_000
        run.context.mark_for_export("x", "blackboard")
        await run.complete()
        (refused,) = at.row().refused_exports
        assert (at.row().status, refused.key, refused.destination) == ("completed", "x", "blackboard")
        assert "has no place" in refused.reason
