"""Writes that were given up: shown, applied after all, removed, and never lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fix_left_journals import KEY, KINDS, LIMITS, entry, give_up, named
from holdfast import Append, Bot, Delete, Durability, Increment, OutcomeUnknown, Refused, Set
from holdfast.audit.chain import AuditNote
from holdfast.errors import CorruptDocument, HoldfastError, TierUnavailable
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Isolation, Letter
from holdfast.row_decoding import RowDecoder
from holdfast.testing import ManualClock, MemoryJournalBase, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_transaction import MemoryTransaction
from holdfast.write_behind.dead_writes import DeadWrites
from holdfast.write_behind.entries import Entry

SWARM = Key("swarm", "s1")


class Ground:
    """A server, and the letters of L3."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.l3 = MemoryStorage()
        self.base = MemoryJournalBase(self.l3, self.clock)
        self.flows: Flows

    @property
    def letters(self) -> DeadWrites:
        return self.flows.store.dead_writes

    async def bot(self) -> str | None:
        bot = await self.flows.store.bots.get("b1")
        return None if bot is None else bot.name

    async def ids(self) -> list[int]:
        return [each.id for each in await self.letters.list()]


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    """A server with one bot."""
    ground = Ground()
    async with connect_flows(l3=ground.l3, journals=ground.base, clock=ground.clock) as flows:
        ground.flows = flows
        await flows.store.bots.put("b1", Bot(name="old"))
        yield ground


async def test_they_are_shown_in_words(ground: Ground) -> None:
    """Which row, what was to be done to it, why it was not, and how long ago."""
    await give_up(ground.base, [named(7), entry(9, Increment("stats", "total_tool_calls", by=2), key=SWARM)])
    ground.clock.advance(60)
    first, second = await ground.letters.list()
    assert (first.key, first.journal, first.seq, first.operations) == (KEY, "j", 7, ('set name to "new"',))
    assert (first.reason, first.seconds) == ("poison: by hand", 60)
    assert (second.key, second.operations) == (SWARM, ("add 2 to stats.total_tool_calls",))
    assert [each.id for each in await ground.letters.list(limit=1)] == [first.id]


async def test_one_that_cannot_be_read_is_shown_all_the_same(ground: Ground) -> None:
    """With its reason; it cannot be replayed, and is kept."""
    (identifier,) = await give_up(ground.base, [Letter(KEY, 1, b"x" * 40, "damaged")])
    (shown,) = await ground.letters.list()
    assert (shown.operations, shown.reason) == ((), "damaged")
    with pytest.raises(CorruptDocument, match="journal entry 1"):
        await ground.letters.replay(identifier)
    assert await ground.ids() == [identifier]


async def test_a_replay_applies_it_to_the_row_of_now(ground: Ground) -> None:
    """Whatever its writer had seen: no life and no value of before is asked for. The letter goes, and reads see it."""
    stale = named(1, birth=4711, base_version=4711, expects=(b"12345678",))
    identifier, other = await give_up(ground.base, [stale, named(2, "other")])
    receipt = await ground.letters.replay(identifier)
    assert receipt is not None
    assert receipt.durability is Durability.COMMITTED
    assert receipt.version == (await ground.l3.load([KEY])).rows[KEY].version
    assert ground.flows.store.bots.peek("b1") is None  # fenced at once, not when the feed brings it
    assert await ground.bot() == "new"
    assert await ground.ids() == [other]


async def test_a_replay_comes_after_what_this_server_had_accepted(ground: Ground) -> None:
    """What waits for its flush is brought there first."""
    (identifier,) = await give_up(ground.base, [entry(1, Append("capabilities", "dead"))])
    await ground.flows.store.bots.patch("b1", Append("capabilities", "first"), durability=Durability.ACCEPTED)
    await ground.letters.replay(identifier)
    bot = await ground.flows.store.bots.get("b1")
    assert bot is not None
    assert list(bot.capabilities) == ["first", "dead"]


async def test_a_row_may_be_begun_or_deleted_by_it(ground: Ground) -> None:
    """By the default of the write, by a whole document, or by a deletion."""
    absent, whole = Key("bot", "b2"), Key("bot", "b3")
    ids = await give_up(
        ground.base,
        [
            named(1, key=absent, default=Bot(model="m")),
            entry(2, Set(Bot(name="whole")), key=whole),
            entry(3, Delete()),
        ],
    )
    receipts = [await ground.letters.replay(each) for each in ids]
    assert all(receipt is not None and receipt.version for receipt in receipts)
    rows = (await ground.l3.load([absent, whole, KEY])).rows
    assert set(rows) == {absent, whole}
    bot = await ground.flows.store.bots.get("b2")
    assert bot == Bot(name="new", model="m")


@pytest.mark.parametrize(
    ("dead", "reason"),
    [
        (named(1, key=Key("bot", "absent")), "gone"),
        (entry(1, Increment("metadata", "name")), "poison"),
        (named(1, "x" * 600_000), "limit"),
    ],
    ids=["no row", "no number", "too large"],
)
async def test_what_cannot_be_applied_is_refused_and_kept(ground: Ground, dead: object, reason: str) -> None:
    """With the reason; nothing is written."""
    await ground.flows.store.bots.put("b1", Bot(name="old", metadata={"name": "x" * 600_000}))
    (identifier,) = await give_up(ground.base, [dead])  # type: ignore[list-item]
    before = (await ground.l3.load([KEY])).rows
    with pytest.raises(Refused) as refused:
        await ground.letters.replay(identifier)
    assert refused.value.reason == reason
    assert await ground.ids() == [identifier]
    assert (await ground.l3.load([KEY])).rows == before


async def test_what_is_not_there(ground: Ground) -> None:
    """Neither replayed nor discarded, and no error."""
    (identifier,) = await give_up(ground.base, [named(1)])
    assert await ground.letters.replay(identifier + 1) is None
    assert not await ground.letters.discard(identifier + 1)
    assert await ground.letters.discard(identifier)
    assert (await ground.ids(), await ground.bot()) == ([], "old")


async def test_what_is_done_to_a_letter_is_recorded_with_it(ground: Ground) -> None:
    """Who, why, and which write, not what it wrote; of what was not done nothing is."""
    replayed, discarded, refused = await give_up(
        ground.base, [named(1), named(2, "other"), entry(3, Increment("metadata", "absent"), key=Key("bot", "b9"))]
    )
    await ground.letters.replay(replayed, actor="ada", reason="it is wanted")
    await ground.letters.discard(discarded)
    for missing in (replayed, discarded):
        assert not await ground.letters.discard(missing)
        assert await ground.letters.replay(missing) is None
    with pytest.raises(Refused):
        await ground.letters.replay(refused)
    notes = [entry.note for entry in await ground.flows.audit.list()]
    assert [(each.action, each.subject, each.actor, each.reason) for each in notes] == [
        ("replayed", f"dead_write:{replayed}", "ada", "it is wanted"),
        ("discarded", f"dead_write:{discarded}", "a server", "by hand"),
    ]
    assert notes[0].detail == '{"key":"bot:b1","journal":"j","seq":1}'


async def test_what_cannot_be_recorded_is_not_done(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter stays, and the row."""
    (identifier,) = await give_up(ground.base, [named(1)])

    async def refuse(_self: MemoryTransaction, note: AuditNote) -> None:
        raise TierUnavailable(f"L3: no room for {note.action}")

    monkeypatch.setattr(MemoryTransaction, "audit", refuse)
    with pytest.raises(TierUnavailable):
        await ground.letters.replay(identifier)
    with pytest.raises(TierUnavailable):
        await ground.letters.discard(identifier)
    assert (await ground.ids(), await ground.bot()) == ([identifier], "old")


class Fragile(MemoryJournalBase):
    """Letters cannot be removed: as if the server died after the commit."""

    async def discard(self, identifier: int, note: AuditNote | None = None) -> bool:
        raise TierUnavailable(f"L3: {identifier} stays")


class DiscardsFirst(DeadWrites):
    """Mutant: the letter goes before the write is in effect."""

    async def _applied(self, entry: Entry, note: AuditNote) -> int:
        for each in await self.list():
            await self.discard(each.id)
        return await super()._applied(entry, note)


def letters_over(l3: MemoryStorage, base: MemoryJournalBase, of: type[DeadWrites] = DeadWrites) -> DeadWrites:
    """Of a tool that has no caches."""

    async def settle(_: object) -> None:
        """It has accepted nothing."""

    return of(
        base,
        l3,
        KINDS,
        LIMITS,
        stored=RowDecoder(KINDS).stored,
        settle=settle,
        tell=lambda _: None,
        doubt=lambda _: None,
        actor="ada",
    )


async def test_a_crash_after_the_commit_leaves_the_letter(ground: Ground) -> None:
    """The write is in effect and its letter is still there: at worst somebody has to look."""
    (identifier,) = await give_up(ground.base, [named(1)])
    with pytest.raises(TierUnavailable, match="stays"):
        await letters_over(ground.l3, Fragile(ground.l3, ground.clock)).replay(identifier)
    assert await ground.ids() == [identifier]
    assert (await ground.l3.load([KEY])).rows[KEY].body.count(b"new") == 1


class Ends:
    """What becomes of the next commits that wrote rows: they fail, with or without effect."""

    def __init__(self, fault: HoldfastError, *, is_in_effect: bool) -> None:
        self.fault = fault
        self.is_in_effect = is_in_effect

    def put_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until the patch is undone."""
        healthy, ends = MemoryTransaction.commit, self

        async def commit(self: MemoryTransaction) -> None:
            wrote = bool(self.changes)
            if ends.is_in_effect or not wrote:
                await healthy(self)
            if wrote:
                raise ends.fault

        monkeypatch.setattr(MemoryTransaction, "commit", commit)


FAILED = Ends(TierUnavailable("L3: away"), is_in_effect=False)
LOST = Ends(OutcomeUnknown("L3: sent, and lost"), is_in_effect=False)
UNHEARD = Ends(OutcomeUnknown("L3: sent, and lost"), is_in_effect=True)


@pytest.mark.parametrize("ends", [FAILED, LOST, UNHEARD], ids=["failed", "lost", "unheard"])
async def test_a_replay_that_fails_keeps_the_letter(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    """And no cache goes on as if it were known not to be in effect."""
    (identifier,) = await give_up(ground.base, [named(1)])
    with monkeypatch.context() as patched:
        ends.put_over(patched)
        with pytest.raises(type(ends.fault)):
            await ground.letters.replay(identifier)
    assert await ground.ids() == [identifier]
    assert ground.flows.store.bots.peek("b1") is None
    assert await ground.bot() == ("new" if ends.is_in_effect else "old")


class Away(MemoryStorage):
    """Begins no transaction."""

    async def open_transaction(self, isolation: Isolation) -> MemoryTransaction:
        raise TierUnavailable("L3: away")


@pytest.mark.parametrize(("of", "kept"), [(DeadWrites, True), (DiscardsFirst, False)])
async def test_the_letter_goes_last(ground: Ground, of: type[DeadWrites], kept: bool) -> None:  # noqa: FBT001
    """If it went first, a replay that fails would have lost the write."""
    (identifier,) = await give_up(ground.base, [named(1)])
    with pytest.raises(TierUnavailable):
        await letters_over(Away(), ground.base, of).replay(identifier)
    assert await ground.ids() == ([identifier] if kept else [])
