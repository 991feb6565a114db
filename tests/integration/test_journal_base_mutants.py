"""With one line of the SQL of journals changed, a check of the contract fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import pytest

from fix_journal_bases import PostgresBases
from holdfast.testing.conformance import JournalBaseSuite
from holdfast.tiers import l3_journal_statements


class Mutant(NamedTuple):
    """A change of a statement.

    Attributes:
        line, instead: what is replaced, and by what.
        check: the one that then fails.
    """

    statement: str
    line: str
    instead: str
    check: Callable[[JournalBaseSuite], Awaitable[None]]


MUTANTS: Mapping[str, Mutant] = {
    "W9-any_epoch_decides": Mutant(
        "OWN",
        "journal = $1 AND epoch = $2",
        "journal = $1 AND $2::int8 > 0",
        JournalBaseSuite.check_only_the_owner_decides,
    ),
    "W9-a_flush_has_no_lock": Mutant(
        "OWN",
        "FOR NO KEY UPDATE",
        "",
        JournalBaseSuite.check_a_flush_that_does_not_end,
    ),
    "W9-any_epoch_takes": Mutant(
        "TAKE",
        "AND epoch = $2",
        "AND $2::int8 > 0",
        JournalBaseSuite.check_one_of_many_takers_gets_it,
    ),
    "W9-the_epoch_stays": Mutant(
        "TAKE",
        "epoch = epoch + 1",
        "epoch = epoch",
        JournalBaseSuite.check_taking_over,
    ),
    "W4-a_flush_forgets_the_ones_before": Mutant(
        "DECIDE",
        "decided + $2",
        "$2",
        JournalBaseSuite.check_what_is_decided_adds_up,
    ),
    "W8-what_is_refused_is_not_taken_back": Mutant(
        "BACK",
        "ROLLBACK TO SAVEPOINT refusable; ",
        "",
        JournalBaseSuite.check_after_a_conflict_the_flush_goes_on,
    ),
    "W10-letters_are_unbounded": Mutant(
        "KEEP",
        "WHERE id <= ",
        "WHERE false AND id <= ",
        JournalBaseSuite.check_the_oldest_letters_make_room,
    ),
}
STATEMENTS_SECONDS = 2.0
"""Longer than a healthy check of these takes; what waits for ever is caught too."""


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
async def test_the_suite_catches(
    monkeypatch: pytest.MonkeyPatch, postgres_bases: PostgresBases, mutant: Mutant
) -> None:
    """One rule of a statement switched off."""
    healthy = getattr(l3_journal_statements, mutant.statement)
    assert healthy.count(mutant.line) == 1, f"the mutation no longer applies: {mutant.line!r}"
    monkeypatch.setattr(l3_journal_statements, mutant.statement, healthy.replace(mutant.line, mutant.instead))
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(STATEMENTS_SECONDS):
            await mutant.check(JournalBaseSuite(postgres_bases))


async def test_the_suite_catches_a_flush_that_may_be_idle_for_ever(
    monkeypatch: pytest.MonkeyPatch, postgres_bases: PostgresBases
) -> None:
    """Without the server's limit a server that stands still keeps its journal."""
    monkeypatch.setattr(l3_journal_statements, "begin", lambda _idle_ms: "BEGIN")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(STATEMENTS_SECONDS):
            await JournalBaseSuite(postgres_bases).check_an_idle_flush_is_ended()
