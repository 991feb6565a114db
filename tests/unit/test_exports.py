"""What leaves a run by its declarations, and what does not, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_runs import free_values, hybrid_clock, keys
from holdfast.documents import ContextVariable, DataSensitivity, ExportDeclaration, ExportDestination, freeze
from holdfast.run_context.exports import MASK, Leaving, Origin, Terms, leaving

HERE = Origin("r1", "search", "swarm1", "r0")
ALONE = Origin("r1", "search", None, None)
SECRET = "pass" + "word-4711"
OUTSIDE = [each for each in ExportDestination if each != "parent_context"]


def fails(_: Any) -> Any:
    """A transformation that tells what it was given when it fails."""
    raise ValueError(SECRET)


TRANSFORMATIONS = {"double": lambda value: value * 2, "fails": fails, "odd": lambda _: object()}


def left(
    variable: ContextVariable,
    *places: str,
    origin: Origin = HERE,
    transformation: str | None = None,
    masks: bool = False,
) -> Leaving:
    """What leaves a run with one variable."""
    declarations = [
        ExportDeclaration(
            key=variable.key,
            destination=place,
            transformation=transformation,
            exporter="crm" if place == "external_system" else None,
        )
        for place in places
    ]
    terms = Terms(transformations=TRANSFORMATIONS, masks=masks)
    return leaving(origin, {variable.key: variable}, {variable.key: declarations}, terms, hybrid_clock().now())


def outside(found: Leaving) -> list[Any]:
    """The values that leave for anybody but the parent."""
    values: list[Any] = [*found.items, *found.values.values(), *found.deliveries.values()]
    return [each.value for each in values]


def test_each_destination_gets_its_form() -> None:
    """The parent a variable, the blackboard an item, the store a document, an exporter a delivery."""
    found = left(ContextVariable(key="x", value=3, clock="c1", ancestor="c0"), *ExportDestination)
    assert found.refused == []
    assert found.exported == {"x": ContextVariable(key="x", value=3, clock="c1", ancestor="c0")}
    assert [(item.id, item.value) for item in found.items] == [("r1/x", 3)]
    assert [(name, each.value, each.key, each.swarm_id) for name, each in found.values.items()] == [
        ("r1/x", 3, "x", "swarm1")
    ]
    assert [(name, each.value, each.exporter) for name, each in found.deliveries.items()] == [("r1/crm/x", 3, "crm")]


@pytest.mark.parametrize("level", ["secret", "pii"])
@pytest.mark.parametrize("masks", [False, True])
def test_what_is_guarded_goes_to_the_parent_alone(level: str, *, masks: bool) -> None:
    """Elsewhere it is refused, or a mask goes in its place, and either is told; the parent gets it as it is."""
    found = left(ContextVariable(key="x", value=SECRET, sensitivity=level), *ExportDestination, masks=masks)
    assert found.exported["x"].value == SECRET
    assert outside(found) == ([MASK] * 3 if masks else [])
    assert [(each.destination, each.masked) for each in found.refused] == [(place, masks) for place in OUTSIDE]
    assert SECRET not in repr(found.refused)


def test_what_was_declared_guarded_stays_so() -> None:
    """Though the variable's own label is another one now."""
    declaration = ExportDeclaration(key="x", destination="blackboard", sensitivity="secret")
    found = leaving(HERE, {"x": ContextVariable(key="x", value=1)}, {"x": [declaration]}, Terms(), hybrid_clock().now())
    assert (found.items, [each.key for each in found.refused]) == ([], ["x"])


def test_a_secret_is_given_to_no_transformation() -> None:
    """Nor does it leave untransformed, where one was asked for."""
    found = left(ContextVariable(key="x", value=2, sensitivity="secret"), "parent_context", transformation="double")
    assert (found.exported, len(found.refused)) == ({}, 1)


def test_a_transformation_makes_the_value() -> None:
    """For every destination; the run's own variable stays as it is."""
    variable = ContextVariable(key="x", value=2)
    found = left(variable, *ExportDestination, transformation="double")
    assert [found.exported["x"].value, *outside(found)] == [4] * 4
    assert variable.value == 2


@pytest.mark.parametrize("name", ["fails", "odd", "gone"])
def test_a_transformation_that_fails_is_a_refusal(name: str) -> None:
    """It says which, and never what it was given."""
    found = left(ContextVariable(key="x", value=SECRET), *ExportDestination, transformation=name)
    assert (found.exported, outside(found), len(found.refused)) == ({}, [], 4)
    assert all(name in each.reason for each in found.refused)
    assert SECRET not in repr(found.refused)


def test_where_there_is_nobody_nothing_goes() -> None:
    """Without a run above, without a swarm, to a word of a newer version: each says so."""
    found = left(ContextVariable(key="x", value=1), "parent_context", "blackboard", "moon", origin=ALONE)
    assert (found.exported, outside(found)) == ({}, [])
    assert [each.destination for each in found.refused] == ["parent_context", "blackboard", "moon"]


def test_a_name_that_l3_cannot_store_is_refused() -> None:
    """The parent takes it all the same: there it is no id."""
    found = left(ContextVariable(key="x" * 600, value=1), "parent_context", "persistent_store", "external_system")
    assert list(found.exported) == ["x" * 600]
    assert [each.destination for each in found.refused] == ["persistent_store", "external_system"]


def test_an_inherited_value_that_is_transformed_is_the_runs_own() -> None:
    """So the parent sees that it was changed, and from what."""
    copy = ContextVariable(key="x", value=2, source="parent", mutable=False, clock="c0")
    made = left(copy, "parent_context", transformation="double").exported["x"]
    assert (made.value, made.source, made.mutable, made.ancestor) == (4, "step", True, "c0")
    assert made.clock == hybrid_clock().now().as_text()
    assert left(copy, "parent_context").exported["x"] == copy


@given(
    values=st.dictionaries(keys, st.tuples(free_values, st.sampled_from([*DataSensitivity, "later word"])), min_size=1),
    masks=st.booleans(),
    wanted=st.lists(
        st.tuples(keys, st.sampled_from(ExportDestination), st.sampled_from([None, *TRANSFORMATIONS])), max_size=9
    ),
)
def test_nothing_guarded_leaves_and_nothing_is_lost_unseen(
    *, values: dict[str, tuple[Any, str]], masks: bool, wanted: list[tuple[str, ExportDestination, str | None]]
) -> None:
    """Each declaration has left something or is refused; outside nobody finds a value that is guarded."""
    variables = {
        key: ContextVariable(key=key, value=value, sensitivity=level) for key, (value, level) in values.items()
    }
    exports: dict[str, list[ExportDeclaration]] = {}
    for key, place, name in wanted:
        if key in variables and place not in {each.destination for each in exports.get(key, [])}:
            exporter = "crm" if place == "external_system" else None
            declared = ExportDeclaration(key=key, destination=place, transformation=name, exporter=exporter)
            exports.setdefault(key, []).append(declared)
    found = leaving(HERE, variables, exports, Terms(TRANSFORMATIONS, masks=masks), hybrid_clock().now())
    gone = len(found.exported) + len(outside(found))
    masked = [each for each in found.refused if each.masked]
    assert gone + len(found.refused) == sum(map(len, exports.values())) + len(masked)
    assert len(masked) == outside(found).count(MASK)
    named: list[Any] = [*found.values.values(), *found.deliveries.values()]
    for each in named:
        if variables[each.key].sensitivity in {"secret", "pii"}:
            assert each.value == MASK
    for item in found.items:
        if variables[item.id.removeprefix("r1/")].sensitivity in {"secret", "pii"}:
            assert item.value == freeze(MASK)
