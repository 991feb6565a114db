"""The words that fields such as `status` take, as enums to compare with and choose from.

The fields themselves are declared `str`. A server that runs next to a newer one reads words it does not know;
a field declared as an enum would make a sound document corrupt, take it out of service and escalate it. As
text, the new word is read, kept and stored again, and code that knows only the old ones meets its ``else``.
Every enum here is a `StrEnum`, so a member is accepted wherever the text is, and equals it.
"""

from enum import StrEnum


class RunStatus(StrEnum):
    """Of a run, and of a swarm's execution."""

    PENDING = "pending"
    INITIALIZING = "initializing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    BLOCKED = "blocked"


class StepStatus(StrEnum):
    """Of a step of a run."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"


class StepType(StrEnum):
    """What a step of a routine does."""

    INPUT = "input"
    PROCESS = "process"
    OUTPUT = "output"
    DECISION = "decision"
    LOOP = "loop"
    PARALLEL = "parallel"
    SUBROUTINE = "subroutine"


class StrategyType(StrEnum):
    """How a routine or a step is carried out."""

    CONVERSATIONAL = "conversational"
    REASONING = "reasoning"
    DETERMINISTIC = "deterministic"


class NavigatorType(StrEnum):
    """Which engine walks a routine's steps."""

    BPMN = "bpmn"
    LANGCHAIN = "langchain"
    TEMPORAL = "temporal"
    AIRFLOW = "airflow"
    N8N = "n8n"
    CUSTOM = "custom"


class VariableSource(StrEnum):
    """Where a variable of a run came from."""

    PARENT = "parent"
    STEP = "step"
    USER = "user"
    SYSTEM = "system"


class DataSensitivity(StrEnum):
    """How carefully a value must be handled."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    SECRET = "secret"  # noqa: S105  # a level, not a password
    PII = "pii"


class ExportDestination(StrEnum):
    """Where a run's export goes."""

    PARENT_CONTEXT = "parent_context"
    BLACKBOARD = "blackboard"
    PERSISTENT_STORE = "persistent_store"
    EXTERNAL_SYSTEM = "external_system"


class SubTaskStatus(StrEnum):
    """Of a swarm's subtask."""

    TODO = "todo"
    IN_PROGRESS = "in_progress"
    DONE = "done"
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELED = "canceled"


class Priority(StrEnum):
    """Of a subtask or an objective."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ResourceKind(StrEnum):
    """Of a swarm's resource."""

    NOTE = "Note"
    FILE = "File"
    URL = "URL"
    VECTOR = "Vector"
    IMAGE = "Image"
    OTHER = "Other"


class Visibility(StrEnum):
    """Who may read a swarm: everyone; everyone, while only the listed write; only the listed."""

    OPEN = "open"
    RESTRICTED = "restricted"
    PRIVATE = "private"


class PendingToolCallStatus(StrEnum):
    """Of a tool call that waits for its time or for approval."""

    PENDING_APPROVAL = "PENDING_APPROVAL"
    SCHEDULED_FOR_EXECUTION = "SCHEDULED_FOR_EXECUTION"
    APPROVED_READY_FOR_EXECUTION = "APPROVED_READY_FOR_EXECUTION"
    REJECTED_BY_USER = "REJECTED_BY_USER"
    REJECTED_BY_TIMEOUT = "REJECTED_BY_TIMEOUT"
    EXECUTING = "EXECUTING"
    COMPLETED_SUCCESS = "COMPLETED_SUCCESS"
    COMPLETED_FAILURE = "COMPLETED_FAILURE"
    CANCELLED_BY_SYSTEM = "CANCELLED_BY_SYSTEM"
