"""Bots, routines and teams of an input as documents. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.cli.demo.corpus import AgentFile, Item, RoutineFile, RoutineVersion, TeamFile, Translation
from holdfast.cli.demo.scenario import Scenario, ScenarioBot, ScenarioRoutine
from holdfast.cli.demo.swarms import part_id
from holdfast.documents import (
    Bot,
    FrozenDict,
    InputSpec,
    OutputSpec,
    Routine,
    RoutineMetadata,
    RoutineStep,
    StepType,
    Team,
    TeamMember,
    TeamObjective,
)

LANGUAGE = "en"
_TAKEN_OF_BOT = ("model", "maxTokens", "agentSpec")


def bot_of_agent(item: Item[AgentFile]) -> Bot:
    """An agent of the input's `agents` folder: all that it is goes into the agent's specification."""
    agent = item.parsed
    specification = {name: value for name, value in item.value.items() if name != "identity"}
    return Bot(
        name=agent.identity.name,
        handle=agent.identity.name,
        agent_spec=specification,
        metadata={"source": item.path, "version": agent.identity.version},
    )


def bot_of_scenario(bot: ScenarioBot, scenario: Scenario) -> Bot:
    """A bot that a scenario brings with it, in either shape's words."""
    config = bot.config
    model, tokens, specification = config.get("model"), config.get("maxTokens"), config.get("agentSpec")
    return Bot(
        name=bot.name,
        handle=bot.name,
        model=model if isinstance(model, str) else None,
        max_tokens=tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None,
        agent_spec=specification if isinstance(specification, dict) else {},
        metadata={"source": scenario.source, "role": bot.role, "rest": _without(config, *_TAKEN_OF_BOT)},
    )


def routine_of_file(item: Item[RoutineFile]) -> Routine:
    """A routine of the input's `routines` folder, in its newest version."""
    file = item.parsed
    newest = file.versions[-1]
    words = _words(newest)
    return Routine(
        name=words.name or file.public_id,
        version=newest.version_label,
        description=words.description,
        steps=[_step(step) for step in _listed(newest.config, "graph", "schema", "steps")],
        inputs=[_input(field) for field in _listed(newest.config, "formInput", "schema", "elements")],
        outputs=[_output(field) for field in _listed(newest.config, "formOutput", "schema", "elements")],
        default_strategy=_text(newest.config, "executionStrategy"),
        config=newest.config,
        metadata=RoutineMetadata(
            tags=[tag["tag"] for tag in file.tags if isinstance(tag.get("tag"), str)],
            category=item.path.split("/")[1] if item.path.count("/") > 1 else None,
            is_public=not file.is_private,
        ),
        extra=FrozenDict({"source": item.path, "file": _without_config(item.value)}),
    )


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in names}


def _without_config(file: Mapping[str, Any]) -> dict[str, Any]:
    """The file as it is, but for the newest version's configuration, which the document holds already."""
    *older, newest = file["versions"]
    return {**file, "versions": [*older, _without(newest, "config")]}


def _words(version: RoutineVersion) -> Translation:
    first = version.translations[0] if version.translations else Translation(LANGUAGE, "")
    return next((words for words in version.translations if words.language == LANGUAGE), first)


def _listed(value: object, *path: str) -> Iterator[Mapping[str, Any]]:
    """The objects of the list at a path; none where the routine has no such list."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())


def _text(value: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that holds text."""
    return next((value[name] for name in names if isinstance(value.get(name), str)), None)


def _step(step: Mapping[str, Any]) -> RoutineStep:
    return RoutineStep(
        step_id=_text(step, "id", "stepId") or "",
        name=_text(step, "name") or "",
        step_type=StepType.SUBROUTINE.value,
        description=_text(step, "description"),
        configuration=step,
    )


def _input(field: Mapping[str, Any]) -> InputSpec:
    return InputSpec(
        name=_text(field, "fieldName", "id") or "",
        type=_text(field, "type") or "any",
        required=field.get("isRequired") is True,
        default_value=field.get("defaultValue"),
        description=_text(field, "label"),
    )


def _output(field: Mapping[str, Any]) -> OutputSpec:
    return OutputSpec(
        name=_text(field, "fieldName", "id") or "",
        type=_text(field, "type") or "any",
        description=_text(field, "label"),
    )


def routine_of_scenario(routine: ScenarioRoutine, scenario: Scenario) -> Routine:
    """A routine that a scenario brings with it or only names."""
    return Routine(
        name=routine.name,
        config=routine.config,
        metadata=RoutineMetadata(tags=[routine.form] if routine.form else [], category=scenario.name),
        extra=FrozenDict({"source": scenario.source}),
    )


def team_of_file(item: Item[TeamFile]) -> Team:
    """A team of the input's `teams` folder."""
    team = item.parsed
    return Team(
        name=team.name,
        members=[TeamMember(id=member.agent, role=member.role or "member") for member in team.members],
        objectives=[
            TeamObjective(id=f"objective-{number}", description=words)
            for number, words in enumerate(team.objectives, 1)
        ],
        metadata={"source": item.path, "rest": _without(item.value, "id", "name", "members", "objectives")},
    )


def team_of_scenario(identifier: str, scenario: Scenario) -> Team:
    """The team of a scenario's own bots; each bot's goal is an objective.

    Args:
        identifier: the swarm's id.
        scenario: the swarm's recording.
    """
    return Team(
        name=scenario.name,
        description=scenario.goal,
        members=[TeamMember(id=part_id(identifier, bot.name), role=bot.role or "member") for bot in scenario.bots],
        objectives=[TeamObjective(id=bot.name, description=bot.goal) for bot in scenario.bots if bot.goal],
        metadata={"source": scenario.source},
    )
