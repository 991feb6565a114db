"""Shape (a): `expectedFlow` steps with their blackboard updates and events. The mocks answer the routines."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from holdfast.cli.demo.files import convert
from holdfast.cli.demo.oddities import Oddities
from holdfast.cli.demo.scenario import (
    Change,
    Operation,
    RoutineCall,
    Scenario,
    ScenarioBot,
    ScenarioRoutine,
    Step,
    alternatives,
)

ACTIONS_WITHOUT_ROUTINE = frozenset({"emit", "invoke"})


class Identity(msgspec.Struct):
    """Who the scenario is."""

    name: str
    description: str = ""
    category: str = ""
    complexity: str = ""


class AgentSpec(msgspec.Struct):
    """What an agent is for and what it listens to."""

    goal: str = ""
    subscriptions: tuple[str, ...] = ()


class BotConfig(msgspec.Struct, rename="camel"):
    """An agent's configuration, as far as the replay needs it."""

    agent_spec: AgentSpec = msgspec.field(default_factory=AgentSpec)


class Agent(msgspec.Struct, rename="camel"):
    """One of the scenario's own agents."""

    name: str
    role: str = ""
    bot_config: BotConfig = msgspec.field(default_factory=BotConfig)


class FlowStep(msgspec.Struct, rename="camel"):
    """A step as recorded."""

    step: int | None = None
    agent: str | None = None
    trigger: str | None = None
    action: str | None = None
    description: str = ""
    blackboard_updates: dict[str, Any] = {}
    emitted_events: tuple[str, ...] = ()


class TriggerEvent(msgspec.Struct):
    """The event that starts the scenario."""

    topic: str
    data: Any = None


class InitialConditions(msgspec.Struct, rename="camel"):
    """The state before the first step."""

    trigger_event: TriggerEvent | None = None
    blackboard_state: dict[str, Any] = {}


class Mock(msgspec.Struct, rename="camel"):
    """What a routine answers: its call number `iteration` or `attempt`, from 1; without either, any call."""

    routine_name: str
    response: Any
    iteration: int | None = None
    attempt: int | None = None

    @property
    def turn(self) -> int | None:
        """The call it answers."""
        return self.attempt if self.iteration is None else self.iteration


class Mocks(msgspec.Struct, rename="camel"):
    """All answers."""

    routine_responses: tuple[Mock, ...] = ()


class RoutineSpec(msgspec.Struct):
    """One of the scenario's own routines."""

    name: str
    type: str = ""
    config: dict[str, Any] = {}


class Flow(msgspec.Struct, rename="camel"):
    """The whole file."""

    identity: Identity
    expected_flow: tuple[FlowStep, ...]
    agents: tuple[Agent, ...] = ()
    routines: tuple[RoutineSpec, ...] = ()
    resources: dict[str, Any] = {}
    success: dict[str, Any] = {}
    initial_conditions: InitialConditions = msgspec.field(default_factory=InitialConditions)
    mocks: Mocks = msgspec.field(default_factory=Mocks)


def parse_flow(path: str, value: dict[str, Any]) -> Scenario:
    """Read a scenario of shape (a).

    Raises:
        InputFileError: with the path inside the document.
    """
    flow = convert(path, value, Flow)
    odd = Oddities()
    odd.unknown_fields("scenario", value, Flow)
    for number, recorded in enumerate(value["expectedFlow"], 1):
        odd.unknown_fields(f"step {number}", recorded, FlowStep)
    deck = MockDeck(flow.mocks.routine_responses)
    steps = tuple(_read_step(number, step, deck, odd) for number, step in enumerate(flow.expected_flow, 1))
    _note_strangers(flow, odd)
    deck.note_unused(odd)
    opening = flow.initial_conditions.trigger_event
    return Scenario(
        name=flow.identity.name,
        source=path,
        shape="flow",
        goal=flow.identity.description,
        bots=tuple(map(_read_agent, flow.agents, value.get("agents", ()))),
        routines=tuple(ScenarioRoutine(each.name, each.type, each.config) for each in flow.routines),
        blackboard=flow.initial_conditions.blackboard_state,
        steps=steps,
        opening=opening.topic if opening else None,
        opening_data=opening.data if opening else None,
        success=flow.success,
        limits=flow.resources,
        oddities=odd.found,
    )


def _read_agent(agent: Agent, recorded: dict[str, Any]) -> ScenarioBot:
    spec = agent.bot_config.agent_spec
    return ScenarioBot(agent.name, agent.role, spec.goal, spec.subscriptions, recorded.get("botConfig", {}))


def _read_step(number: int, step: FlowStep, deck: MockDeck, odd: Oddities) -> Step:
    place = f"step {number}"
    if step.step not in {None, number}:
        odd.add("numbering", place, f"the recording numbers it {step.step}; its place in the list counts")
    if step.action is None:
        words = f": {step.description!r}" if step.description else ""
        odd.add("step without action", place, f"counted as a step, with nothing to call{words}")
    for event in step.emitted_events:
        if len(alternatives(event)) > 1:
            odd.add("alternative events", place, f"{event!r} leaves open which; noted word for word")
    return Step(
        number=number,
        trigger=step.trigger,
        agent=step.agent,
        action=step.action,
        call=_read_call(place, step.action, deck, odd),
        changes=tuple(Change(item, Operation.SET, value) for item, value in step.blackboard_updates.items()),
        events=step.emitted_events,
        remark=step.description,
    )


def _read_call(place: str, action: str | None, deck: MockDeck, odd: Oddities) -> RoutineCall | None:
    if action is None or action in ACTIONS_WITHOUT_ROUTINE:
        return None
    mock = deck.draw(action)
    if mock is None:
        odd.add(
            "routine without mock",
            place,
            f"{action} has no recorded answer; the call is recorded without one",
        )
    return RoutineCall(action, mock.response if mock else None)


def _note_strangers(flow: Flow, odd: Oddities) -> None:
    agents = {agent.name for agent in flow.agents}
    routines = {routine.name for routine in flow.routines} | ACTIONS_WITHOUT_ROUTINE
    for number, step in enumerate(flow.expected_flow, 1):
        if step.agent is not None and step.agent not in agents:
            odd.add("unknown agent", f"step {number}", f"{step.agent} is not among the scenario's agents")
        if step.action is not None and step.action not in routines:
            odd.add("undefined routine", f"step {number}", f"{step.action} is not among the scenario's routines")


class MockDeck:
    """Deals the recorded answers: the one for this call's turn, else one that answers any call."""

    def __init__(self, mocks: tuple[Mock, ...]) -> None:
        self._mocks = mocks
        self._first: dict[tuple[str, int | None], int] = {}
        for at, mock in enumerate(mocks):
            self._first.setdefault((mock.routine_name, mock.turn), at)
        self._calls: Counter[str] = Counter()
        self._used: set[int] = set()

    def draw(self, routine: str) -> Mock | None:
        """The answer to the routine's next call; None if the recording has none."""
        self._calls[routine] += 1
        chosen = self._first.get((routine, self._calls[routine]), self._first.get((routine, None)))
        if chosen is None:
            return None
        self._used.add(chosen)
        return self._mocks[chosen]

    def note_unused(self, odd: Oddities) -> None:
        """Note the answers that no step asks for."""
        for at, mock in enumerate(self._mocks):
            if at not in self._used:
                which = f"the answer to call {mock.turn}" if mock.turn else "its answer"
                odd.add("unused mock", f"mock {mock.routine_name}", f"no step asks for {which}")
