"""Runs that are near their limits are kept, ended and resumed all the same; tiers in memory."""

from __future__ import annotations

import pytest

from fix_run_servers import RUN, hall, values
from holdfast import DocumentTooLarge, Refused
from holdfast.run_context import snapshots

NAMES = [f"https://example.org/{'x' * 180}/{number:04d}" for number in range(1450)]
"""So many that a context with them is near its limit, and they make up a third of it."""


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: a summary names all variables, and a base what was before it."""
    monkeypatch.setattr(snapshots, "NAMES_MAX", 1 << 30)
    monkeypatch.setattr(snapshots, "NAMES_BYTES_MAX", 1 << 30)
    monkeypatch.setattr(snapshots, "_nameless", lambda summary: summary)


async def test_what_a_step_has_written_is_kept_whatever_the_names() -> None:
    """It has ended, so it was promised; the delta has room for all of it beside the names of the one before."""
    async with hall("a", "c") as servers:
        run = await servers.a.begin("research", run_id=RUN)
        for turn in range(2):
            async with run.step(f"s{turn}"):
                run.context.update(dict.fromkeys(NAMES, turn))
            await servers.servers["a"].store.flush()
        await run.complete()
        view = await servers.servers["c"].store.runs.get(RUN)
        assert view is not None
        assert list(view.state.steps) == ["s0", "s1"]
        assert values(view) == dict.fromkeys(NAMES, 1)


async def test_a_run_is_resumed_with_loss_whatever_the_names() -> None:
    """The base that begins its chain anew has room for the context."""
    async with hall() as servers:
        run = await servers.a.begin("research", run_id=RUN)
        run.context.update(dict.fromkeys(NAMES, 0))
        await run.checkpoint()
        run.context["last"] = 1
        await run.checkpoint()
        await run.pause()
        servers.damage("00000002")
        resumed = await servers.b.resume(RUN)
        assert (resumed.lost.variables, resumed.lost.more) == (("last",), 0)
        assert dict(resumed.context) == dict.fromkeys(NAMES, 0)


@pytest.mark.usefixtures("unbound")
async def test_mutant_a_step_of_long_names_is_lost() -> None:
    """Its delta is too large, though the context is not."""
    with pytest.raises(Refused):
        await test_what_a_step_has_written_is_kept_whatever_the_names()


@pytest.mark.usefixtures("unbound")
async def test_mutant_a_run_of_long_names_cannot_be_resumed() -> None:
    """Its new base would be too large."""
    with pytest.raises(DocumentTooLarge):
        await test_a_run_is_resumed_with_loss_whatever_the_names()
