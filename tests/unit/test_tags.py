"""Tags: what one is, which the built-in kinds give their documents, and how a kind's own are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Bot, Kind, Run, RunContextSnapshot, SettingsError, Swarm
from holdfast.documents import BotParticipant
from holdfast.errors import InvalidDocument, InvalidKey
from holdfast.keys import Key
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM
from holdfast.tags import EVERY_TAG, TAG_BYTES_MAX, TAGS_MAX, check_tag, checked_tags, in_cache, run_tags
from holdfast.tiers.l3_rows import array_text

KEY = Key("plan", "p1")


@pytest.mark.parametrize("tag", ["x", " ", "bot:b1", "{*}", "é" * 276, "t" * TAG_BYTES_MAX, f"{'k' * 40}:{'i' * 512}"])
def test_any_text_of_553_bytes_is_a_tag(tag: str) -> None:
    """So that any kind and id make one."""
    assert check_tag(tag) == tag
    assert checked_tags([tag, "x", tag]) == tuple(dict.fromkeys([tag, "x"]))


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("", "must not be empty"),
        ("t" * 554, "554 bytes; at most 553"),
        ("é" * 277, "554 bytes; at most 553"),
        ("a\0b", "NUL"),
        ("a\ud800", "not valid Unicode"),
        (b"x", "a tag is text, not bytes"),
        (["x"], "a tag is text, not list"),
    ],
)
def test_what_is_no_tag_is_refused(tag: Any, words: str) -> None:
    """Alone, or among others."""
    with pytest.raises(InvalidKey, match=words):
        check_tag(tag)
    with pytest.raises(InvalidKey, match=words):
        checked_tags(["x", tag])


def test_one_text_is_not_several_tags() -> None:
    """Its characters would be taken for tags."""
    with pytest.raises(InvalidKey, match="several texts, not one"):
        checked_tags("bot")


def test_a_swarm_has_the_tags_of_its_bots_and_its_team() -> None:
    """Each once, whatever it is there for."""
    swarm = Swarm(
        participants=[BotParticipant(id="b1"), BotParticipant(id="b2")],
        event_subscriptions={"a": ["b2", "b3"], "b": ["b1"]},
        swarm_leader="b4",
        team_id="t1",
    )
    assert SWARM.tags_of(Key("swarm", "s1"), swarm) == ("bot:b1", "bot:b2", "bot:b3", "bot:b4", "team:t1")
    assert SWARM.tags_of(Key("swarm", "s1"), Swarm()) == ()


def test_a_snapshot_has_the_tag_of_its_routine() -> None:
    """The other built-in kinds declare none."""
    snapshot = RunContextSnapshot(run_id="r1", routine_id="x", sequence=1)
    assert RUN_SNAPSHOT.tags_of(Key("run_snapshot", "r1/1"), snapshot) == ("routine:x",)
    assert [kind.tags for kind in (BOT, TEAM, ROUTINE)] == [None] * 3


def test_a_run_has_the_tags_of_its_routine_and_its_swarm() -> None:
    """Of the swarm only if it works for one."""
    assert run_tags(Run(routine_id="x", swarm_id="s1")) == ["routine:x", "swarm:s1"]
    assert run_tags(Run(routine_id="x")) == ["routine:x"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=600), max_size=5))
def test_a_swarm_is_not_refused_for_what_its_bots_are_called(names: list[str]) -> None:
    """What cannot be an id names no document that could ever be void, and gives no tag."""
    swarm = Swarm(participants=[BotParticipant(id=name) for name in names], team_id="\0", swarm_leader="x" * 513)
    tags = SWARM.tags_of(Key("swarm", "s1"), swarm)
    assert tags == tuple(
        dict.fromkeys(f"bot:{name}" for name in names if name and "\0" not in name and len(name.encode()) <= 512)
    )


def plan(tags: Callable[[Bot], Any]) -> Kind[Bot]:
    """A kind that declares tags."""
    return Kind("plan", Bot, tags=tags)


def test_tags_are_checked_when_a_document_is_written() -> None:
    """The refusal names the key, the kind and the tag."""
    with pytest.raises(InvalidDocument, match=r"plan:p1: tags of kind plan: tag 't+'\.\.\. has 554 bytes"):
        plan(lambda _: ["t" * 554]).tags_of(KEY, Bot())


def test_a_function_that_fails_refuses_a_write_and_no_read() -> None:
    """A cached entry whose tags cannot be told is void with any."""

    def fail(_: Bot) -> list[str]:
        raise ZeroDivisionError

    for kind in (plan(fail), plan(lambda _: 7), plan(lambda _: [""])):
        with pytest.raises((ZeroDivisionError, TypeError, InvalidDocument)):
            kind.tags_of(KEY, Bot())
        assert kind.cached_tags_of(KEY, Bot()) == (EVERY_TAG,)


def test_a_cached_entry_has_a_bounded_number_of_tags() -> None:
    """One of more is void with any; one of a kind that declares none is told apart from one without any."""
    many = tuple(str(number) for number in range(TAGS_MAX + 1))
    assert [in_cache(tags) for tags in ((), many[:-1], many)] == [(), many[:-1], (EVERY_TAG,)]
    assert plan(lambda _: many).cached_tags_of(KEY, Bot()) == (EVERY_TAG,)
    assert plan(lambda _: []).cached_tags_of(KEY, Bot()) == ()
    assert BOT.cached_tags_of(KEY, Bot()) is None


def test_tags_must_be_a_function() -> None:
    """Refused when declared."""
    with pytest.raises(SettingsError, match="kind plan: tags is a function"):
        Kind("plan", Bot, tags=["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ((), "{}"),
        (("a", "b"), '{"a","b"}'),
        (('a"b', "c\\", "{,}"), '{"a\\"b","c\\\\","{,}"}'),
        (("NULL",), '{"NULL"}'),
    ],
)
def test_an_array_is_written_so_that_nothing_leaves_its_quotes(tags: tuple[str, ...], text: str) -> None:
    """As PostgreSQL reads arrays."""
    assert array_text(tags) == text
