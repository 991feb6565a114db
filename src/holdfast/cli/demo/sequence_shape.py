"""Shape (b): an event sequence with expected responses.

A response is an event, "X execution" for a routine, or free text. Each becomes one step, taken by the bot
whose behaviour says so. What a routine answered reaches the blackboard by that bot's output operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from holdfast.cli.demo.files import InputFileError, convert
from holdfast.cli.demo.oddities import Oddities
from holdfast.cli.demo.outputs import OPERATIONS, OutputOperations, changes_of, unclaimed
from holdfast.cli.demo.scenario import RoutineCall, Scenario, ScenarioBot, ScenarioRoutine, Step, alternatives

_EXECUTION = re.compile(r"(\S+) execution\Z")
_EVENT = re.compile(r"\S+( OR \S+)*\Z")
_LIMITS = ("maxCredits", "maxDuration", "resourceQuota")


class Trigger(msgspec.Struct):
    """What a behaviour waits for."""

    topic: str
    when: str | None = None


class Action(msgspec.Struct, rename="camel"):
    """What a behaviour does."""

    type: str
    label: str | None = None
    event_type: str | None = None
    output_operations: OutputOperations = {}


class Behavior(msgspec.Struct):
    """One rule of an agent."""

    trigger: Trigger
    action: Action


class BotSpec(msgspec.Struct, rename="camel"):
    """What a bot is for, listens to and does."""

    goal: str = ""
    subscriptions: tuple[str, ...] = ()
    behaviors: tuple[Behavior, ...] = ()
    output_operations: OutputOperations = {}


class SwarmBot(msgspec.Struct, rename="camel"):
    """A bot of the swarm."""

    id: str
    name: str = ""
    role: str = ""
    agent_spec: BotSpec = msgspec.field(default_factory=BotSpec)


class SwarmConfig(msgspec.Struct):
    """The swarm."""

    name: str
    description: str = ""
    bots: tuple[SwarmBot, ...] = ()


class Moment(msgspec.Struct, rename="camel"):
    """An event, and what is expected to follow from it."""

    event: str
    expected_responses: tuple[str, ...] = ()


class Sequence(msgspec.Struct, rename="camel"):
    """The whole file."""

    swarm_config: SwarmConfig
    event_sequence: tuple[Moment, ...]
    initial_blackboard: dict[str, Any] = {}
    mock_routine_responses: dict[str, Any] = {}
    success: dict[str, Any] = {}


def parse_sequence(path: str, value: dict[str, Any]) -> Scenario:
    """Read a scenario of shape (b).

    Raises:
        InputFileError: with the path inside the document.
    """
    sequence = convert(path, value, Sequence)
    _refuse_unknown_operations(path, sequence)
    reader = SequenceReader(sequence)
    reader.odd.unknown_fields("scenario", value, Sequence)
    for number, moment in enumerate(value["eventSequence"], 1):
        reader.odd.unknown_fields(f"event {number}", moment, Moment)
    steps = tuple(reader.steps())
    reader.note_unused_mocks(steps)
    config = sequence.swarm_config
    recorded = value["swarmConfig"]
    return Scenario(
        name=config.name,
        source=path,
        shape="sequence",
        goal=config.description,
        bots=tuple(map(_read_bot, config.bots, recorded.get("bots", ()))),
        routines=tuple(map(ScenarioRoutine, _routine_names(sequence))),
        blackboard=sequence.initial_blackboard,
        steps=steps,
        opening=sequence.event_sequence[0].event if sequence.event_sequence else None,
        success=sequence.success,
        limits={name: recorded[name] for name in _LIMITS if name in recorded},
        oddities=reader.odd.found,
    )


def _refuse_unknown_operations(path: str, sequence: Sequence) -> None:
    for at, bot in enumerate(sequence.swarm_config.bots):
        for operations in (
            bot.agent_spec.output_operations,
            *(behavior.action.output_operations for behavior in bot.agent_spec.behaviors),
        ):
            unknown = sorted(set(operations) - set(OPERATIONS))
            if unknown:
                place = f"swarmConfig.bots[{at}].agentSpec.outputOperations"
                raise InputFileError(path, f"{unknown[0]!r} is none of {', '.join(OPERATIONS)}", place=place)


def _read_bot(bot: SwarmBot, recorded: dict[str, Any]) -> ScenarioBot:
    return ScenarioBot(bot.id, bot.role, bot.agent_spec.goal, bot.agent_spec.subscriptions, recorded)


def _routine_names(sequence: Sequence) -> list[str]:
    behaviors = (each for bot in sequence.swarm_config.bots for each in bot.agent_spec.behaviors)
    labels = [each.action.label for each in behaviors if each.action.type == "routine" and each.action.label]
    expected = (response for moment in sequence.event_sequence for response in moment.expected_responses)
    executed = [found[1] for found in map(_EXECUTION.match, expected) if found]
    return list(dict.fromkeys([*labels, *executed, *sequence.mock_routine_responses]))


class SequenceReader:
    """Turns the expected responses of a sequence into steps, and collects what is odd about them."""

    def __init__(self, sequence: Sequence) -> None:
        self.odd = Oddities()
        self._sequence = sequence

    def steps(self) -> Iterator[Step]:
        """One step for each expected response, in order."""
        number = 0
        for moment in self._sequence.event_sequence:
            for response in moment.expected_responses:
                number += 1
                yield self._step(number, moment.event, response)

    def note_unused_mocks(self, steps: tuple[Step, ...]) -> None:
        """Note the answers that no step asks for."""
        called = {step.call.name for step in steps if step.call}
        for name in self._sequence.mock_routine_responses:
            if name not in called:
                self.odd.add("unused mock", f"mock {name}", "no step asks for its answer")

    def _step(self, number: int, trigger: str, response: str) -> Step:
        execution = _EXECUTION.match(response)
        if execution:
            return self._execution(number, trigger, execution[1])
        if _EVENT.match(response):
            return self._event(number, trigger, response)
        says = f"{response!r} names no event and no routine; counted as a step without action"
        self.odd.add("free text", f"step {number}", says)
        return Step(number, trigger, remark=response)

    def _event(self, number: int, trigger: str, event: str) -> Step:
        place = f"step {number}"
        choices = alternatives(event)
        if len(choices) > 1:
            self.odd.add("alternative events", place, f"{event!r} leaves open which; noted word for word")
        found = self._actor(place, trigger, event, lambda action: action.event_type in choices)
        if found is None:
            return Step(number, trigger, action="emit", events=(event,))
        bot, behavior = found
        changes = tuple(changes_of(place, behavior.action.output_operations, None, self.odd))
        return Step(number, trigger, bot.id, "emit", changes=changes, events=(event,))

    def _execution(self, number: int, trigger: str, routine: str) -> Step:
        place = f"step {number}"
        mocks = self._sequence.mock_routine_responses
        if routine not in mocks:
            says = f"{routine} has no recorded answer; the call is recorded without one"
            self.odd.add("routine without mock", place, says)
        call = RoutineCall(routine, mocks.get(routine))
        found = self._actor(place, trigger, routine, lambda action: action.label == routine)
        if found is None:
            return Step(number, trigger, action=routine, call=call)
        bot, behavior = found
        operations = (behavior.action.output_operations, bot.agent_spec.output_operations)
        for name in unclaimed(call.response, operations):
            self.odd.add("unclaimed result", place, f"{bot.id} has no output operation for {name} of {routine}")
        changes = tuple(change for each in operations for change in changes_of(place, each, call.response, self.odd))
        return Step(number, trigger, bot.id, routine, call, changes)

    def _actor(
        self, place: str, trigger: str, what: str, does: Callable[[Action], bool]
    ) -> tuple[SwarmBot, Behavior] | None:
        """The bot that answers so, and the behaviour by which it does: first of all one with this trigger."""
        able = [
            (bot, behavior)
            for bot in self._sequence.swarm_config.bots
            for behavior in bot.agent_spec.behaviors
            if does(behavior.action)
        ]
        if not able:
            self.odd.add("unknown agent", place, f"no bot's behaviour answers with {what}")
            return None
        exact = [(bot, behavior) for bot, behavior in able if behavior.trigger.topic == trigger]
        if exact:
            return exact[0]
        bot, behavior = able[0]
        says = f"{bot.id} answers {behavior.trigger.topic} with {what}; in the recording it follows {trigger}"
        self.odd.add("other trigger", place, says)
        return bot, behavior
