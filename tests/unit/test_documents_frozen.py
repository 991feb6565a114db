"""Documents are immutable to the leaf."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.documents import (
    BlackboardItem,
    Document,
    FrozenDict,
    FrozenList,
    Part,
    Swarm,
    SwarmStats,
    decode,
    encode,
    freeze,
    thaw,
)
from holdfast.errors import DocumentTooDeep

LIST_MUTATORS: list[tuple[str, Callable[[Any], object]]] = [
    ("append", lambda it: it.append(1)),
    ("extend", lambda it: it.extend([1])),
    ("insert", lambda it: it.insert(0, 1)),
    ("pop", lambda it: it.pop()),
    ("remove", lambda it: it.remove(1)),
    ("clear", lambda it: it.clear()),
    ("sort", lambda it: it.sort(key=str)),
    ("reverse", lambda it: it.reverse()),
    ("[0] =", lambda it: it.__setitem__(0, 1)),
    ("[:] =", lambda it: it.__setitem__(slice(None), [1])),
    ("del [0]", lambda it: it.__delitem__(0)),
    ("del [:]", lambda it: it.__delitem__(slice(None))),
    ("+=", lambda it: it.__iadd__([1])),
    ("*=", lambda it: it.__imul__(2)),
    ("__init__", lambda it: it.__init__([1])),
    ("attribute", lambda it: setattr(it, "note", 1)),
]
DICT_MUTATORS: list[tuple[str, Callable[[Any], object]]] = [
    ("[k] =", lambda it: it.__setitem__("k", 1)),
    ("del [k]", lambda it: it.__delitem__("k")),
    ("update", lambda it: it.update(k=1)),
    ("setdefault", lambda it: it.setdefault("new", 1)),
    ("pop", lambda it: it.pop("k", None)),
    ("popitem", lambda it: it.popitem()),
    ("clear", lambda it: it.clear()),
    ("|=", lambda it: it.__ior__({"k": 1})),
    ("__init__", lambda it: it.__init__({"k": 1})),
    ("attribute", lambda it: setattr(it, "note", 1)),
]


class Foreign(msgspec.Struct, frozen=True):
    tags: list[str]


class Holder(Document, frozen=True, kw_only=True):
    foreign: Foreign


def containers(value: object) -> Iterator[Any]:
    """Every list and dict inside a value, itself included."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from containers(getattr(value, name))
    elif isinstance(value, dict):
        yield value
        for each in value.values():
            yield from containers(each)
    elif isinstance(value, list | tuple):
        if isinstance(value, list):
            yield value
        for each in value:
            yield from containers(each)


def assert_immutable(document: Document) -> int:
    """Try to change every list and dict in the document; returns how many there were."""
    before = encode(document)
    found = list(containers(document))
    for each in found:
        for _, mutate in LIST_MUTATORS if isinstance(each, list) else DICT_MUTATORS:
            with pytest.raises((TypeError, AttributeError)):
                mutate(each)
    assert encode(document) == before
    return len(found)


@pytest.mark.parametrize(("name", "mutate"), LIST_MUTATORS[:-1], ids=[name for name, _ in LIST_MUTATORS[:-1]])
def test_no_list_method_changes_a_frozen_list(name: str, mutate: Callable[[Any], object]) -> None:
    """Each mutator of list raises a TypeError that says what to do instead."""
    frozen = FrozenList([3, 1, 2])
    with pytest.raises(TypeError, match=r"cannot change this list.*update\(\)"):
        mutate(frozen)
    assert frozen == [3, 1, 2]


@pytest.mark.parametrize(("name", "mutate"), DICT_MUTATORS[:-1], ids=[name for name, _ in DICT_MUTATORS[:-1]])
def test_no_dict_method_changes_a_frozen_dict(name: str, mutate: Callable[[Any], object]) -> None:
    """Each mutator of dict raises a TypeError that says what to do instead."""
    frozen = FrozenDict({"k": 0})
    with pytest.raises(TypeError, match=r"cannot change this dict.*update\(\)"):
        mutate(frozen)
    assert frozen == {"k": 0}


def test_every_public_method_of_list_and_dict_is_known_to_change_or_not() -> None:
    """A mutator that a later Python adds to list or dict shows up here before it gets past us."""
    reads = {"copy", "count", "index", "fromkeys", "get", "items", "keys", "values"}
    for base, frozen in ((list, FrozenList), (dict, FrozenDict)):
        public = {name for name in vars(base) if not name.startswith("_")}
        inherited = {name for name in public if getattr(frozen, name) is getattr(base, name)}
        assert inherited <= reads


free_containers = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc$", max_size=3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(value=free_containers, meta=st.dictionaries(st.text("xyz", max_size=2), free_containers, max_size=3))
def test_no_container_of_a_document_can_be_changed(value: object, meta: dict[str, Any]) -> None:
    """Whatever a document holds, built or decoded, no nested list or dict in it takes a write."""
    built = Swarm(blackboard=[BlackboardItem(id="b", value=value)], metadata=meta, extra=FrozenDict(new=[value]))
    assert assert_immutable(built) >= 5
    assert_immutable(decode(Swarm, encode(built)))


def test_a_caller_that_keeps_its_list_cannot_change_the_document() -> None:
    """Values given to the constructor are copied: the caller's aliases are not the document's."""
    inner: list[Any] = [1]
    value: dict[str, Any] = {"inner": inner}
    items = [BlackboardItem(id="b", value=value)]
    swarm = Swarm(blackboard=items, metadata={"value": value})
    inner.append(2)
    value["more"] = True
    items.clear()
    assert swarm.blackboard == [BlackboardItem(id="b", value={"inner": [1]})]
    assert swarm.metadata == {"value": {"inner": [1]}}


def test_fields_cannot_be_set() -> None:
    """The struct itself refuses assignment and deletion."""
    swarm = Swarm(goal="g")
    with pytest.raises(AttributeError):
        swarm.goal = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        swarm.stats.total_credits = 5  # type: ignore[misc]


def test_what_is_frozen_is_not_rebuilt() -> None:
    """Freezing again is free: the same objects come back, also through replace."""
    value = freeze({"a": [1, {"b": [2]}], "t": (1, 2)})
    assert freeze(value) is value
    swarm = Swarm(blackboard=[BlackboardItem(id="b", value=value)])
    changed = msgspec.structs.replace(swarm, goal="new")
    assert changed.blackboard is swarm.blackboard
    assert swarm.blackboard[0].value is value


def test_replace_freezes_the_new_value() -> None:
    """A list given to replace is frozen like one given to the constructor."""
    swarm = msgspec.structs.replace(Swarm(), available_tools=[{"name": ["x"]}])
    with pytest.raises(TypeError, match="cannot change"):
        swarm.available_tools[0]["name"].append("y")


def test_subclasses_of_containers_become_the_plain_frozen_type() -> None:
    """An OrderedDict, a named tuple, a set and a bytearray turn into what reading the document will give."""

    class Point(NamedTuple):
        x: int

    frozen = freeze([OrderedDict(a=[1]), Point(3), {1}, bytearray(b"x")])
    assert [type(each) for each in frozen] == [FrozenDict, tuple, frozenset, bytes]
    assert frozen == [{"a": [1]}, (3,), {1}, b"x"]


def test_thaw_gives_plain_containers_at_every_depth() -> None:
    """A thawed value can be changed, and the document it came from does not notice."""
    value = freeze({"a": [{"b": [1]}], "t": ([1],)})
    thawed = thaw(value)
    assert type(thawed) is dict
    thawed["a"][0]["b"].append(2)
    thawed["t"][0].append(2)
    assert thawed == {"a": [{"b": [1, 2]}], "t": ([1, 2],)}
    assert value == {"a": [{"b": [1]}], "t": ([1],)}


def test_copies_of_frozen_values() -> None:
    """Copy and deepcopy return the value itself, the copy method a plain container, pickling a frozen one."""
    frozen = freeze({"a": [1]})
    assert copy.copy(frozen) is frozen
    assert copy.deepcopy(frozen) is frozen
    assert copy.deepcopy(frozen["a"]) is frozen["a"]
    assert type(frozen.copy()) is dict
    assert type(frozen["a"].copy()) is list
    again = pickle.loads(pickle.dumps(frozen))  # noqa: S301  # our own bytes; processes exchange values so
    assert again == frozen
    assert type(again["a"]) is FrozenList


def test_frozen_values_pass_for_lists_and_dicts() -> None:
    """Equality, isinstance, json and msgspec treat them as what they hold."""
    frozen = freeze({"a": [1, {"b": None}]})
    assert frozen == {"a": [1, {"b": None}]}
    assert isinstance(frozen, dict)
    assert isinstance(frozen["a"], list)
    assert json.dumps(frozen) == '{"a": [1, {"b": null}]}'
    assert msgspec.json.encode(frozen) == b'{"a":[1,{"b":null}]}'
    assert frozen | {"c": 1} == {"a": [1, {"b": None}], "c": 1}
    assert FrozenDict.fromkeys("ab", 0) == {"a": 0, "b": 0}


@pytest.mark.parametrize("shape", ["list", "dict", "tuple"])
def test_a_value_that_contains_itself_is_refused_when_it_is_given(shape: str) -> None:
    """A cycle meets the depth limit with the path it runs along; it does not exhaust the stack."""
    cycle: list[Any] = []
    cycle.append({"list": cycle, "dict": {"again": cycle}, "tuple": (cycle,)}[shape])
    with pytest.raises(DocumentTooDeep, match=r"^metadata\.knot\[0\]") as caught:
        Swarm(metadata={"knot": cycle})
    assert len(caught.value.path) < 300


def test_a_part_with_its_own_post_init_is_frozen_all_the_same() -> None:
    """A subclass's __post_init__ runs on frozen values and cannot forget to freeze them."""
    seen: list[type] = []

    class Checked(Part, frozen=True, kw_only=True):
        steps: list[str] = msgspec.field(default_factory=list)

        def __post_init__(self) -> None:
            seen.append(type(self.steps))

    class Further(Checked, frozen=True, kw_only=True):
        def __post_init__(self) -> None:
            super().__post_init__()

    class Silent(Checked, frozen=True, kw_only=True):
        more: list[str] = msgspec.field(default_factory=list)

    assert type(Checked(steps=["a"]).steps) is FrozenList
    assert type(Further(steps=["a"]).steps) is FrozenList
    assert type(Silent(more=["a"]).more) is FrozenList
    assert seen == [FrozenList, FrozenList, FrozenList]


def test_the_fields_of_a_class_below_are_frozen_too() -> None:
    """An instance's own class says what its fields are, those of the class above it included."""

    class Above(Part, frozen=True, kw_only=True):
        steps: list[str] = msgspec.field(default_factory=list)

    class Below(Above, frozen=True, kw_only=True):
        more: dict[str, Any] = msgspec.field(default_factory=dict)

    below = Below(steps=["a"], more={"b": [1]}, extra={"c": {"d": [2]}})  # type: ignore[arg-type]  # a plain dict
    kept = (below.steps, below.more, below.more["b"], below.extra["c"]["d"])
    assert [type(each) for each in kept] == [FrozenList, FrozenDict, FrozenList, FrozenList]
    assert type(Part(extra={"c": []}).extra["c"]) is FrozenList  # type: ignore[arg-type]


class Odd(dict[Any, Any]):
    """Says that it is empty, and tells of other items than it has."""

    def __bool__(self) -> bool:
        return False

    def items(self) -> Any:
        return {"told": [1]}.items()


class Hollow(list[Any]):
    """Says that it is empty."""

    def __bool__(self) -> bool:
        return False


def test_what_a_container_of_another_class_tells_is_taken_and_frozen() -> None:
    """Nothing that it hides slips in as it is, and nothing is lost that it denies."""
    assert freeze(Odd(hidden=[1])) == {"told": [1]}
    assert type(freeze(Odd())["told"]) is FrozenList
    assert freeze(Hollow([[1]])) == [[1]]
    assert type(freeze(Hollow([[1]]))[0]) is FrozenList


def test_structs_of_other_origin_are_frozen_in_place_of_the_given_one() -> None:
    """A frozen msgspec.Struct that is no Part is copied with frozen fields; the caller's own is not touched."""
    foreign = Foreign(["a"])
    holder = Holder(foreign=foreign)
    assert type(foreign.tags) is list
    with pytest.raises(TypeError, match="cannot change"):
        holder.foreign.tags.append("b")
    assert decode(Holder, encode(holder)) == holder


def test_the_defaults_are_shared_and_frozen() -> None:
    """Two documents share their empty containers, which take no write either."""
    with pytest.raises(TypeError, match="cannot change"):
        Swarm().blackboard.append(BlackboardItem(id="b"))  # type: ignore[attr-defined]
    assert Swarm().blackboard is Swarm().blackboard
    assert Swarm().stats == SwarmStats()
