"""The rules as data: what triggers them, what goes, and how much of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from fix_clock import Ticking
from fix_races import until, until_l2_is_trusted, watermarks
from holdfast import RULES, Bot, Dependents, Document, Impact, Kind, Routine, Rule, SettingsError, Team
from holdfast.documents import decode as decoded_document
from holdfast.documents.team import TeamMember, TeamObjective, TeamStructure
from holdfast.errors import Closed, TierError, TierUnavailable
from holdfast.invalidation.invalidator import ACTOR, READ_MAX, CacheInvalidator
from holdfast.invalidation.rules import TARGETS_MAX, Version, check, planned, targets, triggered, whole_kinds
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import Change, Invalidation, Target
from holdfast.testing import MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows

BOT, TEAM = Key("bot", "b1"), Key("team", "t1")
ADA = Bot(name="Ada", model="m1")


def names(change: Version) -> set[str]:
    """The triggers of a change."""
    return {rule.trigger.partition(": ")[2] for rule in triggered(RULES, change)}


def changed(document: Document, **attributes: Any) -> Any:
    """The document with other attributes."""
    return msgspec.structs.replace(document, **attributes)


@pytest.mark.parametrize(
    ("key", "before", "attributes", "expected"),
    [
        (BOT, ADA, {"model": "m2"}, {"bot settings"}),
        (BOT, ADA, {"name": "Eve"}, {"preferences"}),
        (BOT, ADA, {"extra": {"teams": ["t1"]}}, {"preferences"}),
        (BOT, ADA, {"model": "m2", "handle": "eve"}, {"bot settings", "preferences"}),
        (BOT, ADA, {}, set()),
        (TEAM, Team(), {"members": [TeamMember(id="b1")]}, {"team membership", "member additions"}),
        (TEAM, Team(), {"objectives": [TeamObjective(id="o", description="x")]}, {"goal updates"}),
        (Key("routine", "r1"), Routine(), {"version": "2"}, {"version updates"}),
        (Key("plan", "p1"), ADA, {"model": "m2"}, set()),
    ],
)
def test_what_changed_decides(key: Key, before: Document, attributes: dict[str, Any], expected: set[str]) -> None:
    """Only rules with an attribute that differs are triggered."""
    assert names(Version(key, before, changed(before, **attributes))) == expected


@pytest.mark.parametrize(
    "change", [Version(BOT, None, ADA), Version(BOT, ADA, None), Version(BOT, ADA, ADA, known=False)]
)
def test_what_cannot_be_compared_triggers_all_rules_of_its_kind(change: Version) -> None:
    """A new document, a deleted one, and one of which nobody knows what it was."""
    assert names(change) == {"bot settings", "preferences"}


def test_both_sides_name_dependents() -> None:
    """A member that was removed goes, and one that was added."""
    before, after = (Team(members=[TeamMember(id=each)]) for each in ("b1", "b2"))
    (membership,) = [rule for rule in RULES if rule.trigger == "user updates: team membership"]
    (members,) = membership.dependents
    assert targets(members, Version(TEAM, before, after)) == [Target("bot", "b1"), Target("bot", "b2")]


def test_each_target_goes_once_and_says_why() -> None:
    """Two rules that name it are one invalidation."""
    change = Version(TEAM, Team(), Team(members=[TeamMember(id="b1")]))
    assert planned(RULES, [change, change]) == {
        Target("bot", "b1"): "user updates: team membership of team:t1",
        Target(tag="team:t1"): "team changes: member additions of team:t1",
    }


def test_of_too_many_the_whole_kind_goes() -> None:
    """One number in place of a hundred, and of that kind alone."""
    crowd = Team(members=[TeamMember(id=f"b{number}") for number in range(TARGETS_MAX + 1)])
    plan = planned(RULES, [Version(TEAM, Team(), crowd)])
    assert set(plan) == {Target("bot"), Target(tag="team:t1")}
    bots = [Version(Key("bot", str(number)), ADA, changed(ADA, model="m2")) for number in range(TARGETS_MAX)]
    assert len(planned(RULES, bots)) == TARGETS_MAX
    assert set(planned(RULES, [*bots, Version(BOT, ADA, None)])) == {Target("swarm")}


def test_a_kind_that_goes_whole_takes_no_other_targets_away() -> None:
    """A tag that drops swarms stays, though the bots of the same rule go as a kind."""
    many = Team(members=[TeamMember(id=f"m{number}") for number in range(60)])
    others = Team(members=[TeamMember(id=f"n{number}") for number in range(60)])
    small = Team(members=[TeamMember(id="m500")])
    plan = planned(
        RULES,
        [
            Version(Key("team", "A"), many, others),
            Version(Key("team", "B"), small, changed(small, structure=TeamStructure(content="x"))),
        ],
    )
    assert set(plan) == {Target("bot"), Target(tag="team:A"), Target(tag="team:B")}


def test_what_can_be_no_id_is_passed_over() -> None:
    """What a document names is free text; an empty id would stand for any number of documents."""
    team = Team(members=[TeamMember(id=each) for each in ("", "x" * 550, "a\0b", "b1")])
    assert set(planned(RULES, [Version(TEAM, Team(), team)])) == {Target("bot", "b1"), Target(tag="team:t1")}


def test_a_function_that_raises_takes_the_whole_kind() -> None:
    """What it would have named nobody knows."""
    rule = Rule("x", "bot", ("name",), Impact.LOW, (Dependents("swarm", tagged=False, named=lambda bot: [bot.none]),))
    assert planned([rule], [Version(BOT, ADA, None)]) == {Target("swarm"): "x of bot:b1"}


def test_any_number_of_a_kind_takes_whole_kinds_along() -> None:
    """As after a TRUNCATE."""
    assert set(whole_kinds(RULES, "team")) == {Target("bot"), Target("swarm")}
    assert whole_kinds(RULES, "swarm") == {}


OWN = Kind("plan", Bot)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (Rule("x", "none", (), Impact.LOW), "kind none is not known"),
        (Rule("x", "bot", ("colour",), Impact.LOW), "documents of kind bot have no colour"),
        (Rule("x", "bot", ("name",), Impact.LOW, (Dependents("none"),)), "kind none is not known"),
        (Rule("x", "bot", ("name",), Impact.LOW, (Dependents("plan"),)), "kind plan has no tags"),
        (Rule("", "bot", ("name",), Impact.LOW), "its trigger is a text"),
        (Rule("x" * 401, "bot", ("name",), Impact.LOW), "its trigger is a text"),
        (Rule("x", "bot", ("name",), Impact.LOW, Dependents("swarm")), "dependents is a tuple"),  # type: ignore[arg-type]
        (Rule("x", "bot", ("name",), Impact.LOW, (Dependents("swarm", tagged=False),)), "dependents is a tuple"),
        (Rule("x", "bot", ("name",), Impact.LOW, (Dependents("swarm", named=3),)), "dependents is"),  # type: ignore[arg-type]
        ("x", "rules takes rules, not str"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(rule: Rule, fault: str) -> None:
    """Before anything connects, in words."""
    with pytest.raises(SettingsError, match=fault):
        check([rule], register([OWN]))


def test_own_rules_stand_beside_the_seeds() -> None:
    """For own kinds, with the same means."""
    own = Rule(
        "plans: renamed", "plan", ("name",), Impact.LOW, (Dependents("bot", tagged=False, named=lambda _: ["b1"]),)
    )
    rules = check((*RULES, own), register([OWN]))
    assert planned(rules, [Version(Key("plan", "p"), ADA, Bot(name="Eve", model="m1"))]) == {
        Target("bot", "b1"): "plans: renamed of plan:p"
    }


class Recorder:
    """Makes nothing void, but notes what would be."""

    def __init__(self, l3: MemoryStorage) -> None:
        self.done: list[str] = []
        self.fails = 0
        self._l3 = l3

    async def __call__(self, target: Target, reason: str, actor: str) -> Invalidation:
        """Note it."""
        assert actor == ACTOR
        if self.fails:
            self.fails -= 1
            raise TierUnavailable("L3 is away")
        self.done.append(str(target))
        return await self._l3.invalidate(target, reason=reason, actor=actor)

    def taken(self) -> list[str]:
        """What was noted since."""
        done, self.done = self.done, []
        return done


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def void(l3: MemoryStorage) -> Recorder:
    return Recorder(l3)


@pytest.fixture
def decode() -> Callable[[Key, Any], Any]:
    def decoded(key: Key, row: Any) -> Any:
        return decoded_document(register([])[key.kind].document, row.body, what=str(key))

    return decoded


async def follow(invalidator: CacheInvalidator, l3: MemoryStorage, feed: MemoryFeed, cursor: Any) -> Any:
    """Let it follow what was committed since a cursor; the next cursor."""
    poll = await feed.poll(cursor)
    await invalidator.follow(poll.changes)
    return poll.cursor


async def test_a_round_that_failed_is_made_again_whole(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """What was seen of the documents counts only once everything was made void."""
    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    await l3.raw_put(BOT, b'{"model":"m1"}')
    cursor = await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["tag:bot:b1"]
    await l3.raw_put(BOT, b'{"model":"m2"}')
    void.fails = 1
    with pytest.raises(TierUnavailable):
        await follow(invalidator, l3, feed, cursor)
    await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["tag:bot:b1"]


async def test_what_did_not_change_takes_nothing_along(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """A preference, and a row that was written as it was; it knows both sides from the second change on."""
    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    for body, expected in (
        (b'{"name":"a"}', ["tag:bot:b1"]),
        (b'{"name":"b"}', []),
        (b'{"name":"b"}', []),
        (b'{"name":"b","model":"m"}', ["tag:bot:b1"]),
        (b"{broken", ["tag:bot:b1"]),
    ):
        await l3.raw_put(BOT, body)
        cursor = await follow(invalidator, l3, feed, cursor)
        assert void.taken() == expected, body


@pytest.mark.parametrize("rules", [RULES[0], None])
def test_rules_are_several(rules: Any) -> None:
    """One alone is a slip."""
    with pytest.raises(SettingsError, match="rules takes several rules"):
        check(rules, register([]))


async def test_there_and_back_again_is_a_change(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """Between two rounds, and while another server acted: what was derived meanwhile is of neither side."""
    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    await l3.raw_put(BOT, b'{"model":"m1"}')
    cursor = await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["tag:bot:b1"]
    await l3.raw_put(BOT, b'{"model":"m2"}')
    await l3.raw_put(BOT, b'{"model":"m1"}')
    cursor = await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["tag:bot:b1"]
    invalidator.forget()
    await l3.raw_put(BOT, b'{"model":"m1"}')
    await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["tag:bot:b1"]


async def test_voids_trigger_no_rules(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """They change no document, and may be the rules' own."""
    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    await l3.invalidate(Target.of(BOT), reason="by hand", actor="somebody")
    await follow(invalidator, l3, feed, cursor)
    assert void.taken() == []


async def test_what_a_server_that_ends_cannot_do_is_left_to_the_next(l3: MemoryStorage, decode: Any) -> None:
    """It is no refusal: who fences L2 after it follows the same changes."""

    async def void(target: Target, reason: str, actor: str) -> Invalidation:
        raise Closed("the store is closed")

    invalidator = CacheInvalidator(RULES, l3=l3, decode=decode, void=void)
    with pytest.raises(TierUnavailable, match="the store is closed"):
        await invalidator.follow_anything()


async def test_what_is_refused_for_ever_holds_up_nothing(
    l3: MemoryStorage, decode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on, and the log says which was refused; what may go better the next time is repeated."""
    done: list[str] = []

    async def void(target: Target, reason: str, actor: str) -> Invalidation:
        if target == Target("bot", "b1"):
            raise TierError("L3: refused")
        done.append(str(target))
        return await l3.invalidate(target, reason=reason, actor=actor)

    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    await l3.raw_put(TEAM, b'{"members":[{"id":"b1"},{"id":"b2"}]}')
    await follow(invalidator, l3, feed, cursor)
    assert sorted(done) == ["bot:b2", "tag:team:t1"]
    assert "bot:b1 could not be made void" in caplog.text


async def test_when_nobody_can_tell_all_that_depends_goes(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """As after a past that cannot be continued."""
    await CacheInvalidator(RULES, l3=l3, decode=decode, void=void).follow_anything()
    assert sorted(void.taken()) == ["kind:bot", "kind:run_snapshot", "kind:swarm"]


async def test_many_at_once_are_not_read(l3: MemoryStorage, void: Recorder, decode: Any) -> None:
    """Nor are documents of kinds that nothing depends on."""
    invalidator, feed = CacheInvalidator(RULES, l3=l3, decode=decode, void=void), MemoryFeed(l3)
    cursor = (await feed.poll(None)).cursor
    for number in range(READ_MAX + 1):
        await l3.raw_put(Key("bot", str(number)), b"{}")
    await l3.raw_put(Key("swarm", "s1"), b"{}")
    loads = len(l3.loads)
    await follow(invalidator, l3, feed, cursor)
    assert void.taken() == ["kind:swarm"]
    assert len(l3.loads) == loads


async def test_the_relay_repeats_its_round_until_the_rules_have_acted(l3: MemoryStorage) -> None:
    """They go before its watermarks: whoever leads next finds the changes untold, and acts on them."""
    clock = Ticking()
    async with connect_flows(l3=l3, l2=MemoryCache(clock), clock=clock, rules=RULES) as flows:
        recorder = Recorder(l3)
        recorder.fails = 2
        flows.cache_invalidator._void = recorder
        await until_l2_is_trusted(flows)
        await flows.store.bots.put("b1", ADA)

        async def acted() -> bool:
            return recorder.done == ["tag:bot:b1"]

        await until(acted)
        assert recorder.fails == 0


async def test_a_mutant_whose_marks_move_first_loses_the_rules(
    l3: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was told, so that nobody looks at the change again."""
    clock = Ticking()
    async with connect_flows(l3=l3, l2=MemoryCache(clock), clock=clock, rules=RULES) as flows:
        assert flows.relay is not None
        recorder = Recorder(l3)
        first = flows.cache_invalidator
        follow = first.follow
        recorder.fails = 1
        flows.cache_invalidator._void = recorder
        await until_l2_is_trusted(flows)

        async def carelessly(changes: Sequence[Change]) -> None:
            with contextlib.suppress(TierUnavailable):
                await follow(changes)

        monkeypatch.setattr(first, "follow", carelessly)
        await flows.store.bots.put("b1", ADA)
        assert await flows.feed.refresh()
        cursor = flows.feed.cursor
        assert cursor is not None

        async def told() -> bool:
            assert flows.relay is not None
            marks = await watermarks(flows.relay._sink)
            return all(mark is not None and mark.snapshot.covers(cursor.snapshot) for mark in marks)

        await until(told)
        assert recorder.done == []
