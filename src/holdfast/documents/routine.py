"""The routine: steps that a run walks through."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.documents.vocabulary import DataSensitivity, NavigatorType, StepType


class RoutineStep(Part, frozen=True, kw_only=True, rename="camel"):
    """A step of a routine.

    Attributes:
        step_type: a `StepType`.
        input_mappings: name in the step to name in the run's context; `output_mappings` the reverse.
        configuration: a free mapping.
        strategy: a `StrategyType`, where it is not the routine's.
        required: False if a run may skip it.
        timeout_ms: milliseconds; stored as ``timeout``.
    """

    step_id: str
    name: str = ""
    step_type: str = StepType.PROCESS.value
    description: str | None = None
    input_mappings: Mapping[str, str] = EMPTY_DICT
    output_mappings: Mapping[str, str] = EMPTY_DICT
    configuration: Mapping[str, Any] = EMPTY_DICT
    strategy: str | None = None
    required: bool = True
    timeout_ms: int | None = msgspec.field(default=None, name="timeout")


class InputSpec(Part, frozen=True, kw_only=True, rename="camel"):
    """What a routine asks for.

    Attributes:
        type: in the routine's own words, as ``text``.
        default_value: a free value.
        validation: rules, each a free value.
    """

    name: str
    type: str = "any"
    required: bool = False
    default_value: Any = None
    description: str | None = None
    validation: Sequence[Any] = EMPTY_LIST


class OutputSpec(Part, frozen=True, kw_only=True, rename="camel"):
    """What a routine yields.

    Attributes:
        sensitivity: a `DataSensitivity`.
    """

    name: str
    type: str = "any"
    description: str | None = None
    sensitivity: str = DataSensitivity.INTERNAL.value


class ResourceRequirements(Part, frozen=True, kw_only=True, rename="camel"):
    """What a run of the routine takes; credits, milliseconds, megabytes."""

    min_credits: int | None = None
    estimated_credits: int | None = None
    max_credits: int | None = None
    estimated_duration_ms: int | None = None
    max_duration_ms: int | None = None
    memory_mb: int | None = msgspec.field(default=None, name="memoryMB")
    concurrency_level: int | None = None
    tools_required: Sequence[str] = EMPTY_LIST


class RoutineMetadata(Part, frozen=True, kw_only=True, rename="camel"):
    """Where a routine comes from and how it is found."""

    created_by: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    tags: Sequence[str] = EMPTY_LIST
    category: str | None = None
    is_public: bool = False


class Routine(Document, frozen=True, kw_only=True, rename="camel"):
    """A routine's definition.

    Attributes:
        version: its label, as ``1.0.0``; not the version of the row.
        navigator_type: a `NavigatorType`.
        config: what its navigator needs; a free mapping.
        default_strategy: a `StrategyType`.
    """

    name: str = ""
    version: str = "1.0.0"
    description: str | None = None
    navigator_type: str = NavigatorType.CUSTOM.value
    steps: Sequence[RoutineStep] = EMPTY_LIST
    inputs: Sequence[InputSpec] = EMPTY_LIST
    outputs: Sequence[OutputSpec] = EMPTY_LIST
    resource_requirements: ResourceRequirements | None = None
    default_strategy: str | None = None
    config: Mapping[str, Any] = EMPTY_DICT
    metadata: RoutineMetadata = RoutineMetadata()
