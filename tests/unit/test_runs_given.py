"""What runs are given that is none: told with the parameter's name, before anything is written."""

from __future__ import annotations

from typing import Any

import pytest

from fix_run_servers import RUN, hall
from holdfast import Conflict
from holdfast.errors import InvalidDocument, InvalidKey

BEGUN_WITH: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"inputs": [1, 2]}, InvalidDocument, "inputs: are a mapping of names to values, not list"),
    ({"inputs": None}, InvalidDocument, "inputs: .*not NoneType"),
    ({"parent": "r0"}, TypeError, "parent is an ActiveRun of this server, not str"),
    ({"swarm_id": ""}, InvalidKey, "swarm_id must not be empty"),
    ({"swarm_id": 5}, InvalidKey, "swarm_id is text, not int"),
    ({"swarm_id": "s" * 513}, InvalidKey, "swarm_id .* has 513 bytes"),
    ({"routine_id": ""}, InvalidKey, "routine_id must not be empty"),
    ({"routine_id": "\udce9"}, InvalidKey, "routine_id .* is not valid Unicode"),
    ({"routine_id": "a\0b"}, InvalidKey, "routine_id"),
]


@pytest.mark.parametrize(("given", "error", "words"), BEGUN_WITH)
async def test_a_run_is_begun_with(given: dict[str, Any], error: type[Exception], words: str) -> None:
    """Nothing that it cannot have."""
    async with hall("a") as at:
        with pytest.raises(error, match=words):
            await at.a.begin(**{"routine_id": "search", **given})
        assert await at.a.list() == []


async def test_no_such_durability() -> None:
    """What changed is still to be saved; its word is as good as the member."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        with pytest.raises(ValueError, match="'bogus' is not a valid Durability"):
            await run.save("bogus")
        assert at.row().changes == []
        await run.save("committed")
        assert len(at.row().changes) == 1


async def test_no_such_status() -> None:
    """The words that there are are named."""
    async with hall("a") as at:
        with pytest.raises(InvalidDocument, match=r"status: is one of .*running, .*, not 'bogus'"):
            await at.a.list(status="bogus")


async def test_an_id_that_is_taken() -> None:
    """There is a run; nothing is said of versions."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        for opening in (at.a.fork(RUN, new_run_id=RUN), at.a.begin("search", run_id=RUN)):
            with pytest.raises(Conflict, match="there is a run r1 already"):
                await opening
        await run.complete()
