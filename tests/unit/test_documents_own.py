"""A user's own documents: ten lines, and everything the built-in ones have."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from holdfast.documents import Document, FrozenDict, FrozenList, Part, decode, encode
from holdfast.errors import CorruptDocument, InvalidDocument


class Plan(Document):
    title: str
    steps: tuple[str, ...] = ()


def test_a_document_in_three_lines() -> None:
    """Fields by position or name, defaults, equality, bytes and back, immutable."""
    plan = Plan("Ship it", steps=("build", "test"))
    assert encode(plan) == b'{"__version":1,"title":"Ship it","steps":["build","test"]}'
    assert decode(Plan, encode(plan)) == plan == Plan(title="Ship it", steps=("build", "test"))
    with pytest.raises(AttributeError):
        plan.title = "other"  # type: ignore[misc]


class Mood(enum.Enum):
    GOOD = "good"


class Money(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str = "EUR"


class Cat(Part, frozen=True, kw_only=True, tag="cat"):
    lives: int = 9


class Dog(Part, frozen=True, kw_only=True, tag="dog"):
    tricks: list[str] = msgspec.field(default_factory=list)


class Everything(Document, frozen=True, kw_only=True, rename="camel"):
    names: list[str] = msgspec.field(default_factory=list)
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    by_number: dict[int, list[int]] = msgspec.field(default_factory=dict)
    pair: tuple[str, Decimal] = ("a", Decimal(1))
    labels: set[str] = msgspec.field(default_factory=set)
    due_at: dt.datetime | None = None
    lasts: dt.timedelta | None = None
    key: UUID | None = None
    blob: bytes = b""
    mood: Mood | None = None
    level: Literal["low", "high"] = "low"
    price: Money | None = None
    prices: Sequence[Money] = FrozenList()
    pet: Cat | Dog | None = None
    pets: Mapping[str, Cat | Dog] = FrozenDict()
    either: int | str | list[str] = 0
    grid: list[tuple[int, int]] = msgspec.field(default_factory=list)
    free: Any = None
    bag: dict[str, Any] = msgspec.field(default_factory=dict)
    frozen: FrozenDict = FrozenDict()
    sealed: FrozenList = FrozenList()
    anything: object = None
    objects: dict[str, object] = msgspec.field(default_factory=dict)
    needed: str | None


def everything() -> Everything:
    """One with every field set."""
    return Everything(
        names=["a"],
        counts={"a": 1},
        by_number={7: [1, 2]},
        pair=("x", Decimal("1.10")),
        labels={"b", "a"},
        due_at=dt.datetime(2025, 6, 1, 12, tzinfo=dt.UTC),
        lasts=dt.timedelta(seconds=90),
        key=UUID(int=7),
        blob=b"\x00\x01",
        mood=Mood.GOOD,
        level="high",
        price=Money(Decimal("2.50")),
        prices=[Money(Decimal(1), "USD")],
        pet=Dog(tricks=["sit"]),
        pets={"tom": Cat(lives=3), "rex": Dog()},
        either=["x"],
        grid=[(1, 2)],
        free=Decimal(1),
        bag={"a": (1,)},
        frozen=FrozenDict(a={1}),
        sealed=FrozenList([b"x"]),
        anything=[Decimal(1)],
        objects={"a": 1, "b": [{"c": ()}]},
        needed=None,
    )


def test_every_kind_of_field_round_trips() -> None:
    """Containers, times, enums, literals, structs of other origin, tagged unions, renamed fields, free values."""
    document = everything()
    again = decode(Everything, encode(document))
    assert again == document
    assert [type(getattr(again, name)) for name in ("names", "counts", "labels", "pair", "frozen")] == [
        FrozenList, FrozenDict, frozenset, tuple, FrozenDict,
    ]  # fmt: skip
    assert type(again.pet) is Dog
    assert again.mood is Mood.GOOD
    for changing in (again.by_number[7], again.bag, again.pet.tricks, again.either):
        with pytest.raises(TypeError, match="cannot change"):
            changing.clear()  # type: ignore[union-attr]


def test_the_stored_form_of_every_kind_of_field() -> None:
    """Typed values are stored as plain JSON, readable without Holdfast; only free values are tagged."""
    stored = msgspec.json.decode(encode(everything()))
    assert stored["dueAt"] == "2025-06-01T12:00:00Z"
    assert stored["labels"] == ["a", "b"]
    assert stored["pair"] == ["x", "1.10"]
    assert stored["byNumber"] == {"7": [1, 2]}
    assert stored["price"] == {"amount": "2.50", "currency": "EUR"}
    assert stored["pet"] == {"type": "dog", "tricks": ["sit"]}
    assert stored["free"] == {"$decimal": "1"}
    assert stored["frozen"] == {"a": {"$set": [1]}}
    assert stored["needed"] is None


def test_a_null_is_stored_only_where_it_is_not_the_default() -> None:
    """An optional field at None leaves no trace; a required one that may be None is stored as null."""
    assert b'"needed":null' in encode(Everything(needed=None))
    assert b"dueAt" not in encode(Everything(needed=None))
    with pytest.raises(CorruptDocument, match="required field `needed`"):
        decode(Everything, b'{"__version":1}')


def test_lists_and_tuples_take_each_other() -> None:
    """A tuple given for a list is held as a list, and the reverse, at any depth: what is read is what was given."""
    document = Everything(names=("a",), grid=([1, 2],), by_number={1: (2,)}, prices=(), needed="")  # type: ignore[arg-type,dict-item]
    assert (document.names, document.grid, document.by_number) == (["a"], [(1, 2)], {1: [2]})
    assert decode(Everything, encode(document)) == document


def test_unknown_fields_of_a_tagged_part_are_kept() -> None:
    """The tag chooses the class, and its unknown fields stay with the part."""
    body = encode(everything()).replace(b'"type":"dog","tricks":["sit"]', b'"type":"dog","tricks":["sit"],"age":3')
    document = decode(Everything, body)
    assert document.pet is not None
    assert document.pet.extra == {"age": 3}
    assert decode(Everything, encode(document)) == document


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"pet": Money(Decimal(1))}, "pet"),
        ({"prices": [Cat()]}, "prices[0]"),
        ({"pets": {"a": 1}}, "pets.a"),
        ({"pair": ("a", 1.5)}, "pair[1]"),
        ({"pair": ("a",)}, "pair"),
        ({"grid": [(1, 2), (1, "2")]}, "grid[1][1]"),
        ({"labels": ["a"]}, "labels"),
        ({"mood": "good"}, "mood"),
        ({"level": "middle"}, "level"),
        ({"by_number": {"1": [1]}}, "by_number['1']"),
        ({"either": {"a": 1}}, "either"),
        ({"either": ["a", 1]}, "either[1]"),
        ({"blob": "AAE="}, "blob"),
        ({"key": str(UUID(int=7))}, "key"),
        ({"lasts": "PT1S"}, "lasts"),
        ({"price": Money("1.5")}, "price.amount"),  # type: ignore[arg-type]
        ({"pet": Dog(tricks=[1])}, "pet.tricks[0]"),  # type: ignore[list-item]
    ],
)
def test_faults_in_fields_of_every_kind_are_placed(fields: dict[str, Any], path: str) -> None:
    """The path leads through tagged unions, fixed tuples, foreign structs and mappings with other keys."""
    with pytest.raises(InvalidDocument) as caught:
        encode(msgspec.structs.replace(everything(), **fields))
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        ('"pet":{"type":"bird"}', "pet.type"),
        ('"pet":{"type":"dog","tricks":[1]}', r"pet.tricks\[0\]"),
        ('"pets":{"tom":{"type":"cat","lives":"many"}}', "pets.tom.lives"),
        ('"pair":["a"]', "pair"),
        ('"byNumber":{"x":[]}', "by_number.x"),
        ('"frozen":[]', "frozen"),
        ('"mood":"bad"', "mood"),
    ],
)
def test_corruption_in_fields_of_every_kind_is_placed(stored: str, path: str) -> None:
    """The same paths name the place when stored bytes do not fit."""
    with pytest.raises(CorruptDocument, match=f"at {path}: "):
        decode(Everything, f'{{"__version":1,"needed":"",{stored}}}'.encode())


@dataclasses.dataclass
class Mutable:
    value: int = 0


class Loose(msgspec.Struct):
    value: int = 0


class Row(msgspec.Struct, frozen=True, array_like=True):
    value: int = 0


class HoldsDataclass(Document):
    bad: Mutable


class HoldsLoose(Document):
    bad: Loose


class HoldsRow(Document):
    bad: Row


class HoldsUnion(Document):
    bad: list[str] | dict[str, int]


class HoldsStructOrText(Document):
    bad: Money | str


class TakesTagName(Document):
    bad: int = msgspec.field(name="$bad")


class TakesVersion(Document):
    bad: int = msgspec.field(name="__version")


class Unlocked(Document, frozen=False):  # type: ignore[misc]
    bad: int


class Forgetful(Document, forbid_unknown_fields=False):
    bad: int


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (HoldsDataclass, r"HoldsDataclass\.bad: .*Mutable.* cannot be kept immutable"),
        (HoldsUnion, r"HoldsUnion\.bad: a union of .* is not supported"),
        (HoldsStructOrText, r"HoldsStructOrText\.bad: a union of .* is not supported"),
        (TakesTagName, r"TakesTagName\.bad: the stored name '\$bad' is reserved"),
        (TakesVersion, r"TakesVersion\.bad: the stored name '__version' is reserved"),
        (Unlocked, "Unlocked: a part of a document is a frozen struct"),
        (Forgetful, "Forgetful: forbid_unknown_fields"),
    ],
)
def test_a_class_that_could_not_keep_the_promises_is_refused(document: type[Document], message: str) -> None:
    """The first instance, or the first read, says which field and what to use instead."""
    with pytest.raises(TypeError, match=message):
        document(bad=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=message):
        decode(document, b"{}")


@pytest.mark.parametrize("document", [HoldsLoose, HoldsRow])
def test_structs_that_can_change_or_have_no_names_are_refused(document: type[Document]) -> None:
    """A struct that is not frozen could change under its readers; an array has no room for unknown fields."""
    value = inspect.get_annotations(document, eval_str=True)["bad"]()
    with pytest.raises(TypeError, match="a part of a document is a frozen struct, and not array_like"):
        encode(document(bad=value))  # type: ignore[call-arg]


def test_an_annotation_that_cannot_be_resolved_says_so() -> None:
    """A part defined inside a function is out of msgspec's sight; the error says where to put it."""

    class Hidden(Part, frozen=True):
        value: int = 0

    class Holds(Document):
        hidden: Hidden

    with pytest.raises(TypeError, match=r"'Hidden', unknown in module .* at its top level"):
        Holds(hidden=Hidden())
