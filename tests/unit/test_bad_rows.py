"""A row of L3 that holds no document: whoever meets it tells, and it hides and holds up no other."""

from __future__ import annotations

import msgspec
import pytest

from fix_races import until
from fix_recovery import Scene, scene
from holdfast import Bot, Durability, Refused, Set
from holdfast.errors import CorruptDocument, SchemaTooNew
from holdfast.keys import Key
from holdfast.protocols import Absent, Evidence

B1 = Key("bot", "b1")
BAD = b'{"name": 7}'
NEWER = b'{"__version":99,"name":"Ada"}'


def spoil(at: Scene, key: Key, body: bytes = BAD) -> bytes:
    """Let a row of L3 hold no document, which no cache hears of; what it held."""
    rows = at.l3.log.rows
    before = rows[key].body
    rows[key] = msgspec.structs.replace(rows[key], body=body)
    return before


async def found(at: Scene) -> list[Evidence]:
    """What is in quarantine, once all of it is there."""
    await at.so(lambda: at.flows.recovery_log.waiting == 0)
    entries = [await at.quarantine.find(each.number) for each in await at.quarantine.list(limit=100)]
    return [each.found for each in entries if each is not None]


async def test_an_accepted_write_of_a_bad_row_is_kept_and_applied_once_the_row_is_mended() -> None:
    """Others go on meanwhile. Its letter says which row, and why; the row is in quarantine with its version."""
    async with scene() as at:
        bots = at.flows.store.bots
        await bots.put("b1", Bot(name="old"))
        await bots.put("b2", Bot(name="old"))
        before = spoil(at, B1)
        receipt = await bots.patch("b1", Set("name", "new"), durability=Durability.ACCEPTED)
        other = await bots.patch("b2", Set("name", "new"), durability=Durability.ACCEPTED)
        await at.flows.store.flush()
        await other.reached(Durability.COMMITTED)
        with pytest.raises(Refused, match="bot:b1") as refused:
            await receipt.reached(Durability.COMMITTED)
        assert refused.value.reason == "unreadable"
        (letter,) = await at.flows.store.dead_writes.list()
        assert letter.key == B1
        assert letter.reason.startswith("unreadable: its row cannot be read now; once it can be, replay this write: ")
        assert "bot:b1" in letter.reason
        (kept,) = await found(at)
        assert (kept.tier, kept.kind, kept.id, kept.evidence) == ("l3", "bot", "b1", BAD)
        assert kept.version == at.l3.log.rows[B1].version
        assert (await at.completed())["subject"] == "bot:b1"
        with pytest.raises(CorruptDocument):
            await at.flows.store.dead_writes.replay(letter.id)
        assert [each.id for each in await at.flows.store.dead_writes.list()] == [letter.id]
        spoil(at, B1, before)  # a person has mended it
        assert await at.flows.store.dead_writes.replay(letter.id) is not None
        assert await at.flows.store.dead_writes.list() == []
        bot = await bots.get("b1")
        assert bot is not None
        assert bot.name == "new"


async def opened(at: Scene, *names: str) -> list[str]:
    """Ids of escalations in the order in which they were opened."""
    return [await at.flows.store.escalations.open(name, failed="it failed") for name in names]


def unreadable(at: Scene, identifier: str, kind: str = "escalation") -> Key:
    """Let a row's subject be a number: nothing that L3 finds the row by."""
    key = Key(kind, identifier)
    spoil(at, key, at.l3.log.rows[key].body.replace(b'"subject":"', b'"subject":7,"was":"'))
    return key


@pytest.mark.parametrize("bad", [(0,), (1,), (0, 1), (2,), (0, 1, 2)])
async def test_a_bad_row_hides_no_other_of_a_list(bad: tuple[int, ...]) -> None:
    """Those that can be read are listed, page by page, also behind a page of which none can; the others are named."""
    async with scene() as at:
        names = await opened(at, "a", "b", "c")
        keys = {unreadable(at, names[place]) for place in bad}
        listed, named, after = list[str](), set[str](), None
        while page := await at.flows.store.escalations.list(after=after, limit=1):
            listed += [each.document.subject for each in page]
            named |= {*page.unreadable}
            after = page[-1].cursor
        named |= {*page.unreadable}
        assert listed == [each for place, each in enumerate("abc") if place not in bad]
        assert named == {key.id for key in keys}
        assert {Key(each.kind, each.id) for each in await found(at)} == keys
        await at.flows.run_flows.escalations.observe_oldest()


async def test_a_bad_row_of_a_run_hides_no_other_and_is_told() -> None:
    """It is named, and in quarantine; its parent does not go past it, and says why."""
    async with scene() as at:
        runs = at.flows.store.runs
        parent = await runs.begin("search", run_id="r0")
        children = [await runs.begin("look", parent=parent, run_id=name) for name in ("r1", "r2")]
        for child in children:
            child.context["x"] = child.id
            child.context.mark_for_export("x", "parent_context")
            await child.complete()
        key = Key("run", "r1")
        before = spoil(at, key, at.l3.log.rows[key].body.replace(b'"routineId":"', b'"routineId":7,"was":"'))
        page = await runs.list(parent_run_id="r0")
        assert ([each.id for each in page], page.unreadable) == (["r2"], ["r1"])
        (kept,) = await found(at)
        assert (kept.kind, kept.id, kept.tier) == ("run", "r1", "l3")
        merge = await parent.merge_children()
        assert (merge.children, merge.waits_for) == ((), "r1")
        assert merge.fault is not None
        assert "run:r1" in merge.fault
        spoil(at, key, before)
        assert [each.id for each in (await parent.merge_children()).children] == ["r1", "r2"]


async def test_whoever_read_a_row_of_a_newer_server_lets_others_ask_l3_at_once() -> None:
    """The lease of its load is given back, though nothing is filled. Of such a row no recovery makes caches void."""
    async with scene() as at:
        await at.flows.store.bots.put("b1", Bot(name="Ada"))
        # A fence that came later would end any lease.
        await at.so(lambda: any(B1 in each.held for each in at.l2.dump().values()))
        spoil(at, B1, NEWER)
        at.flows.caches["bot"].flush()
        with pytest.raises(SchemaTooNew):
            await at.flows.store.bots.get("b1")

        async def given_back() -> bool:
            answer = (await at.l2.read([B1], at.flows.view, lease=False))[B1]
            assert isinstance(answer, Absent)
            return answer.leased_seconds == 0

        await until(given_back)
