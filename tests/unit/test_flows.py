"""The flows of one server: how they end."""

from __future__ import annotations

import pytest

from holdfast import Bot
from holdfast.testing import MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows


@pytest.mark.parametrize("part", ["bus", "verifier", "relay", "writer"])
async def test_a_part_that_cannot_end_holds_up_no_other(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is ended, and then what the one raised is raised."""
    l3 = MemoryStorage()

    async def fail() -> None:
        raise RuntimeError(f"{part} cannot end")

    async with connect_flows(l3=l3, feed=MemoryFeed(l3)) as flows:
        await flows.store.bots.put("b1", Bot(name="Ada"))
        assert flows.store.bots.peek("b1") is not None
        with monkeypatch.context() as broken:
            broken.setattr(getattr(flows, part), "drain" if part == "writer" else "stop", fail)
            with pytest.raises(RuntimeError, match=f"{part} cannot end"):
                await flows.stop()
        assert flows.resolver.closing
        assert flows.feed._task is None
        assert not any(shelf.entries for shelf in flows._shelves.values())
