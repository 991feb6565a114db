"""A scenario file of either shape."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from holdfast.cli.demo.files import InputFileError, JsonFile
from holdfast.cli.demo.flow_shape import parse_flow
from holdfast.cli.demo.scenario import Scenario
from holdfast.cli.demo.sequence_shape import parse_sequence

STEPS_MAX = 10_000


def parse_scenario(file: JsonFile) -> Scenario:
    """Read a scenario of either shape.

    Raises:
        InputFileError: of neither shape, or of one with a fault; says where.
    """
    if not isinstance(file.value, dict):
        raise InputFileError(file.path, f"expected an object, got {type(file.value).__name__}", place="document")
    value = cast("dict[str, Any]", file.value)
    if "expectedFlow" in value:
        scenario = parse_flow(file.path, value)
    elif "eventSequence" in value:
        scenario = parse_sequence(file.path, value)
    else:
        raise InputFileError(file.path, "has neither `expectedFlow` nor `eventSequence`", place="document")
    _check(scenario)
    return scenario


def _check(scenario: Scenario) -> None:
    if len(scenario.steps) > STEPS_MAX:
        raise InputFileError(scenario.source, f"has {len(scenario.steps)} steps; at most {STEPS_MAX}")
    for what, parts in (("agent", scenario.bots), ("routine", scenario.routines)):
        repeated = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
        if repeated:
            raise InputFileError(scenario.source, f"has more than one {what} named {repeated[0]!r}")
