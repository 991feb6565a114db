"""Work that goes on while the next is prepared."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.one_ahead import OneAhead


class Line:
    """Does one thing at a time, and says what.

    Attributes:
        said: what began and ended, in order.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def do(self, name: str) -> str:
        """End when its gate is opened."""
        self.said.append(f"{name} begins")
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
        finally:
            self.said.append(f"{name} ends")
        return name


async def test_a_piece_goes_on_while_the_next_is_prepared() -> None:
    """It has begun when `begin` returns, and its result comes with the next."""
    line = Line()
    async with OneAhead[str]() as ahead:
        assert await ahead.begin(line.do("a")) is None
        assert line.said == ["a begins"]
        line.gates["a"].set()
        assert await ahead.begin(line.do("b")) == "a"
        assert line.said == ["a begins", "a ends", "b begins"]
        line.gates["b"].set()
        assert await ahead.end() == "b"
        assert await ahead.end() is None


async def test_what_a_piece_has_sent_has_left_when_the_next_is_prepared() -> None:
    """Some loops hand what was written to the system at the end of a turn, and preparing takes milliseconds."""
    turns: list[str] = []

    async def sending() -> None:
        turns.append("written")
        await asyncio.sleep(0)
        turns.append("a turn later")

    async with OneAhead[None]() as ahead:
        await ahead.begin(sending())
        assert turns == ["written", "a turn later"]


async def test_nothing_is_under_way_after_a_fault() -> None:
    """The piece is cancelled, its own end waited for, and the fault is the first one."""
    line = Line()

    async def beside() -> None:
        async with OneAhead[str]() as ahead:
            await ahead.begin(line.do("a"))
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await beside()
    assert line.said == ["a begins", "a ends"]


async def test_a_piece_that_fails_lets_no_other_begin() -> None:
    """Its error is raised in the place of the next one."""

    async def fail() -> str:
        raise LookupError("a")

    line = Line()

    async def one_after_the_other() -> None:
        async with OneAhead[str]() as ahead:
            await ahead.begin(fail())
            await ahead.begin(line.do("b"))

    with pytest.raises(LookupError):
        await one_after_the_other()
    assert line.said == []
