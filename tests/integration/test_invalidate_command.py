"""`holdfast invalidate`, as a function that prints."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest

import holdfast
from fix_voids import OLD, swarm
from holdfast.cli.invalidate import invalidate, parse_target
from holdfast.errors import SettingsError
from holdfast.protocols import Target
from holdfast.settings import Settings
from holdfast.tiers.l3_postgres import PostgresStorage

Command = Callable[..., Awaitable[str]]


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on this test's database; returns what it printed."""
    monkeypatch.setenv("HOLDFAST_POSTGRES_URL", settings.postgres_url)
    monkeypatch.setenv("HOLDFAST_REDIS_URLS", ",".join(settings.redis_urls))

    async def run(target: str | None, **options: object) -> str:
        capsys.readouterr()
        await invalidate(target, **options)  # type: ignore[arg-type]
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("target", "rows"), [("kind:swarm", 2), ("swarm:s1", 1), ("swarm:none", 0), ("tag:bot:ada", 2), ("all", 3)]
)
async def test_a_dry_run_counts_and_changes_nothing(
    settings: Settings, l3: PostgresStorage, command: Command, target: str, rows: int
) -> None:
    """The rows that the target names in L3, by the tags they were written with; the real run raises and records it."""
    async with holdfast.connect(settings) as state:
        await state.swarms.put_many({"s1": swarm(OLD, "ada"), "s2": swarm(OLD, "ada", "eve")})
        await state.teams.put("t1", holdfast.Team(name="x"))
    before = (await l3.load([])).coherence
    assert await command(target, dry_run=True) == f"{target}: {rows} rows; nothing was changed\n"
    assert (await l3.load([])).coherence == before
    assert not await l3.invalidations(10)
    printed = await command(target, reason="[red]why", actor="ada@desk")
    (done,) = await l3.invalidations(10)
    assert (done.scope, done.reason, done.actor) == (target, "[red]why", "ada@desk")
    assert printed == f"{target}: void below {done.number}; recorded for ada@desk: [red]why\n"


async def test_the_history_is_shown_with_the_newest_first(command: Command) -> None:
    """Each on a line of its own; a number says how many."""
    assert await command(None, history=True) == "nothing was invalidated yet\n"
    for number in range(3):
        await command(f"tag:t{number}", reason=f"why {number} " + "x" * 200)
    assert re.findall(r"(tag:t\d) +\d+ +\S+@\S+:\d+ +(why \d)", await command(None, history=True)) == [
        ("tag:t2", "why 2"),
        ("tag:t1", "why 1"),
        ("tag:t0", "why 0"),
    ]
    assert re.findall(r"tag:t\d", await command("1", history=True)) == ["tag:t2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"invalidate : a target is kind:NAME, KIND:ID, tag:TAG or all"),
        ("bot", r"invalidate bot: a target is kind:NAME"),
        ("bot:", r"invalidate bot:: an id must not be empty; a target is"),
        ("tag:", r"a tag must not be empty; a target is"),
        ("kind:Bot", r"kind name 'Bot': use 1 to 40 of a-z"),
        ("Bot:b1", r"kind name 'Bot'"),
    ],
)
def test_what_names_nothing_is_refused_with_what_does(text: str | None, words: str) -> None:
    """In one sentence."""
    with pytest.raises(SettingsError, match=words):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("all", Target()),
        ("kind:bot", Target("bot")),
        ("bot:b1:2", Target("bot", "b1:2")),
        ("tag:bot:b1", Target(tag="bot:b1")),
        ("all:x", Target("all", "x")),
    ],
)
def test_a_target_is_what_stands_before_the_first_colon_and_the_rest(text: str, target: Target) -> None:
    """Ids and tags may hold colons; what is named is shown as it was written."""
    assert parse_target(text) == target
    assert str(target) == text


async def test_a_kind_that_l3_does_not_have_is_refused_with_those_it_has(command: Command) -> None:
    """A dry run too."""
    for dry_run in (True, False):
        with pytest.raises(
            SettingsError, match="there is no kind bott: L3 has bot, delivery, escalation, export, review, routine"
        ):
            await command("bott:b1", dry_run=dry_run)


@pytest.mark.parametrize("number", ["0", "x", "-1", "10001"])
async def test_a_number_of_records_is_checked(command: Command, number: str) -> None:
    """Before anything is connected."""
    with pytest.raises(SettingsError, match=f"--history {number}: it takes a number of records"):
        await command(number, history=True)
