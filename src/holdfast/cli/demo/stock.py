"""All documents of an input, checked before anything is written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from holdfast.cli.demo.cast import Cast
from holdfast.cli.demo.configuration import (
    bot_of_agent,
    bot_of_scenario,
    routine_of_file,
    routine_of_scenario,
    team_of_file,
    team_of_scenario,
)
from holdfast.cli.demo.corpus import Corpus, Item
from holdfast.cli.demo.files import InputError, InputFileError
from holdfast.cli.demo.rehearsal import rehearse
from holdfast.cli.demo.scenario import Scenario
from holdfast.cli.demo.swarms import execution_id, new_swarm, part_id, run_of, step_run_id
from holdfast.documents import Bot, Document, Limits, Routine, Swarm, Team, encode
from holdfast.errors import InvalidDocument, InvalidKey
from holdfast.keys import check_id
from holdfast.run_context.limits import check_run_id

Parsed = TypeVar("Parsed")
D = TypeVar("D", bound=Document)


class Stock(msgspec.Struct):
    """What the demo loads.

    Attributes:
        casts: the scenarios that are run, with the ids of their documents.
        faults: files whose documents Holdfast refuses; nothing of them is in the stock.
    """

    teams: dict[str, Team]
    bots: dict[str, Bot]
    routines: dict[str, Routine]
    swarms: dict[str, Swarm]
    casts: list[Cast]
    faults: list[InputFileError]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of documents, by collection."""
        return {
            "teams": len(self.teams),
            "bots": len(self.bots),
            "routines": len(self.routines),
            "swarms": len(self.swarms),
        }


def build_stock(corpus: Corpus, run: str, at: datetime, limits: Limits) -> Stock:
    """Make every document of an input.

    Args:
        corpus: the input, as read.
        run: label of this run of the demo, for its swarms.
        at: when the run began.
        limits: of documents.

    Raises:
        InputError: no scenario is left that can be run.
    """
    stock = Stock({}, {}, {}, {}, [], [])
    _take(stock, corpus.teams, stock.teams, team_of_file, limits)
    _take(stock, corpus.agents, stock.bots, bot_of_agent, limits)
    _take(stock, corpus.routines, stock.routines, routine_of_file, limits)
    for identifier, item in corpus.scenarios.items():
        try:
            swarm = new_swarm(identifier, item.parsed, run, at)
            _take_scenario(stock, identifier, item.parsed, swarm, at=at, limits=limits)
        except InputFileError as fault:
            stock.faults.append(fault)
    if not stock.casts:
        raise InputError(f"no scenario can be run; the first fault is {stock.faults[0]}")
    return stock


def _take(
    stock: Stock,
    items: Mapping[str, Item[Parsed]],
    shelf: dict[str, D],
    make: Callable[[Item[Parsed]], D],
    limits: Limits,
) -> None:
    """Add the document of each file, or its fault."""
    for identifier, item in items.items():
        document = make(item)
        try:
            _check(item.path, {identifier: document}, shelf, limits)
        except InputFileError as fault:
            stock.faults.append(fault)
        else:
            shelf[identifier] = document


def _take_scenario(
    stock: Stock, identifier: str, scenario: Scenario, swarm: Swarm, *, at: datetime, limits: Limits
) -> None:
    """Add a scenario's swarm, team, bots and routines: all of them, or none."""
    bots = {part_id(identifier, bot.name): bot_of_scenario(bot, scenario) for bot in scenario.bots}
    routines = {part_id(identifier, each.name): routine_of_scenario(each, scenario) for each in scenario.routines}
    team = {identifier: team_of_scenario(identifier, scenario)}
    _check(scenario.source, bots, stock.bots, limits)
    _check(scenario.source, routines, stock.routines, limits)
    _check(scenario.source, team, stock.teams, limits)
    _check(scenario.source, {identifier: swarm}, stock.swarms, limits)
    _check_runs(scenario, execution_id(run_of(swarm), identifier))
    rehearse(identifier, scenario, swarm, limits, at)
    stock.bots |= bots
    stock.routines |= routines
    stock.teams |= team
    stock.swarms[identifier] = swarm
    stock.casts.append(Cast(scenario, identifier, identifier, frozenset(bots), frozenset(routines)))


def _check_runs(scenario: Scenario, execution: str) -> None:
    """Refuse ids that its runs could not have; that of the last step's is the longest.

    Raises:
        InputFileError: they cannot.
    """
    try:
        check_run_id(step_run_id(execution, len(scenario.steps)))
    except InvalidKey as error:
        raise InputFileError(scenario.source, str(error)) from error


def _check(path: str, documents: Mapping[str, Document], taken: Mapping[str, Document], limits: Limits) -> None:
    """Refuse what L3 would refuse, before anything is written.

    Raises:
        InputFileError: an id is unusable or taken, or a document cannot be stored; says where.
    """
    for identifier, document in documents.items():
        try:
            check_id(identifier)
            encode(document, limits)
        except InvalidKey as error:
            raise InputFileError(path, str(error)) from error
        except InvalidDocument as error:
            raise InputFileError(path, error.reason, place=error.path or "document") from error
        if identifier in taken:
            raise InputFileError(path, f"the id {identifier!r} is taken by another file")
