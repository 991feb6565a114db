"""What is told of a row that does not decode names the place and the sort of the fault, and nothing that it holds."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

import msgspec
import pytest

from fix_recovery import scene
from holdfast import Kind
from holdfast.documents import Document, decode
from holdfast.documents.plans import VERSION
from holdfast.errors import CorruptDocument
from holdfast.keys import Key

SECRET = "078-05-1120"
VALUE = f"{SECRET} - at `$.name`"


class Person(Document, frozen=True, kw_only=True):
    """One whose class has checks of its own, which say what they have found."""

    SCHEMA = 2

    email: str = "a@b"
    plan: Literal["free", "paid"] = "free"
    age: Annotated[int, msgspec.Meta(ge=0)] = 0
    notes: object = None

    def __post_init__(self) -> None:
        """Raises as people write it, with the value."""
        if "@" not in self.email:
            raise ValueError(f"{self.email} is no address")
        if self.age > 200:
            raise ArithmeticError(f"{self.email} is too old")

    @classmethod
    def upgrade(cls, stored: dict[str, Any], version: int) -> dict[str, Any]:
        """Of schema 1 the e-mail address had another name."""
        raise KeyError(stored["mail"])


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({VERSION: 2, "email": VALUE}, "ValueError"),
        ({VERSION: 2, "plan": VALUE}, "at plan: Invalid enum value$"),
        ({VERSION: 2, "notes": {"$datetime": VALUE}}, "at notes: not the content of a .* tag: ValueError"),
        ({VERSION: 2, "email": f"{VALUE}@", "age": 201}, "ArithmeticError"),
        ({VERSION: 1, "mail": VALUE}, "cannot be upgraded from schema 1 to 2: KeyError"),
        ({VERSION: VALUE}, "a str which is no schema number"),
    ],
)
async def test_a_fault_is_told_without_values(
    stored: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the error, the recovery log, the quarantine, events and this process's log; the evidence has them all."""
    kind = Kind("person", Person)
    body = msgspec.json.encode(stored)
    async with scene([kind]) as at:
        with caplog.at_level(logging.DEBUG):
            people = at.flows.store.collection(kind)
            await people.put("p", Person())
            rows, key = at.l3.log.rows, Key("person", "p")
            rows[key] = msgspec.structs.replace(rows[key], body=body)
            at.flows.caches["person"].flush()
            at.l2.forget()
            with pytest.raises(CorruptDocument, match=words) as raised:
                await people.get("p")
            await at.completed()
            await at.so(lambda: at.flows.recovery_log.waiting == 0)
        (kept,) = await at.quarantine.list(limit=10)
        told = [
            str(raised.value),
            kept.found.fault,
            caplog.text,
            *(each.line.detail for each in await at.log.list(limit=100)),
            *(str(event.data) for event in at.events),
        ]
        assert [text for text in told if SECRET in text] == []
        found = await at.quarantine.find(kept.number)
        assert found is not None
        assert found.found.evidence == body


def test_the_place_of_a_fault_is_that_in_the_document() -> None:
    """Whatever the value looks like."""
    with pytest.raises(CorruptDocument) as raised:
        decode(Person, msgspec.json.encode({VERSION: 2, "plan": VALUE}), what="person:p")
    assert str(raised.value) == "person:p does not hold what it should at plan: Invalid enum value"
