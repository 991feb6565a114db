"""How large a run may become (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.documents import ContextVariable, Limits, RunContextSnapshot, StepRecord, encode
from holdfast.documents.faults import DEPTH_CEILING
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.errors import InvalidKey, LimitExceeded, SettingsError
from holdfast.keys import ID_BYTES_MAX, check_id
from holdfast.run_context.changes import has_ended

RUN_ID_BYTES_MAX: Final = ID_BYTES_MAX - len("/00000000.base")
"""So that each of its snapshots has an id too."""

AROUND_BYTES_MAX: Final = 16 * 1024
"""Of a snapshot, around what is measured here: ids, what the snapshot before was, and what the row had before."""

STEP_END_BYTES: Final = 512
"""For how a step ends, kept free from its begin: its status, the time, and a short error."""

_LEVELS_ABOVE: Final = 2
"""Levels of containers around a value in the run's row, more than in a snapshot."""

Sizes: TypeAlias = dict[tuple[str, str], int]
"""Bytes by section and key, or ``steps`` and the step's id."""


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of each run; what would pass one is refused with `LimitExceeded`, and nothing is changed.

    Attributes:
        variables_max: variables of a context; setting `run_variables_max`.
        bytes_max: of all it holds as JSON, and of what steps under way need to end; a base must fit in one document;
            setting `run_bytes_max`.
        depth_max: runs above one another, the uppermost having depth 0; setting `run_depth_max`.
        children_max: runs begun below one; setting `run_children_max`.
        value_depth_max: levels of containers of a document; setting `document_depth_max`.
    """

    variables_max: int = 10_000
    bytes_max: int = 768 * 1024
    depth_max: int = 16
    children_max: int = 10_000
    value_depth_max: int = 64

    def __post_init__(self) -> None:
        for name in ("variables", "bytes", "depth", "children"):
            value, least = getattr(self, f"{name}_max"), int(name in ("variables", "bytes"))
            if value < least:
                raise SettingsError(f"run_{name}_max is at least {least}, not {value}")

    def check(self, run_id: str, limit: str, value: int) -> None:
        """Refuse a value that is over the limit of this name.

        Args:
            limit: `variables`, `bytes`, `depth` or `children`.

        Raises:
            LimitExceeded: it is.
        """
        allowed = getattr(self, f"{limit}_max")
        if value > allowed:
            raise LimitExceeded(run_id, limit, value=value, allowed=allowed, setting=f"run_{limit}_max")

    def check_exported(self, run_id: str, exported: Mapping[str, ContextVariable]) -> None:
        """Refuse what a run leaves for its parent if that is more than a context may be; raises as `check`."""
        if exported:
            self.check(run_id, "bytes", sum(self.sizes(variables=exported).values()))

    def measured(self, inputs: Mapping[str, Any], *, is_held: bool = False) -> int:
        """Bytes of a run's inputs as JSON; `is_held` and errors as of `sizes`."""
        around = len(',"inputs":') + len("{}") if inputs else 0
        return len(_json(self._depth_max(is_held=is_held), inputs=inputs)) - len(_BLANK) - around

    def sizes(
        self, *, steps: Sequence[StepRecord] = EMPTY_LIST, is_held: bool = False, **sections: Mapping[str, Any]
    ) -> Sizes:
        """Bytes of each part of a context as JSON, its key and a comma included; all are written in one go.

        A step that has not ended has those of its end besides.

        Args:
            is_held: it is in the context already, maybe under a limit of depth that was higher then.
            sections: mappings of a snapshot, by the name of its field.

        Raises:
            InvalidDocument: a part cannot be stored; `path` says where in the context, and why.
        """
        body = _json(self._depth_max(is_held=is_held), step_history=steps, **sections)
        stored = msgspec.json.decode(body, type=_Parts)
        sizes = {
            (name, key): len(msgspec.json.encode(key)) + len(":,") + len(value)
            for name, section in sections.items()
            for key, value in zip(section, getattr(stored, name).values(), strict=True)
        }
        for record, value in zip(steps, stored.step_history, strict=True):
            end = 0 if has_ended(record) else STEP_END_BYTES
            sizes["steps", record.step_id] = len(value) + len(",") + end
        return sizes

    def _depth_max(self, *, is_held: bool) -> int:
        return DEPTH_CEILING if is_held else max(self.value_depth_max - _LEVELS_ABOVE, 1)


def _json(depth_max: int, **part: Any) -> bytes:
    within = Limits(bytes_max=1 << 40, depth_max=depth_max)
    return encode(RunContextSnapshot(run_id="", routine_id="", sequence=0, **part), within)


class _Parts(msgspec.Struct, rename="camel"):
    """The JSON of a snapshot, as far as it is measured."""

    variables: dict[str, msgspec.Raw] = {}
    intermediate: dict[str, msgspec.Raw] = {}
    exports: dict[str, msgspec.Raw] = {}
    strategies: dict[str, msgspec.Raw] = {}
    step_history: list[msgspec.Raw] = []


_BLANK: Final = encode(RunContextSnapshot(run_id="", routine_id="", sequence=0))


def check_run_id(run_id: object) -> str:
    """Return the id unchanged if it can name a run.

    Raises:
        InvalidKey: it is no id, or over 498 bytes of UTF-8.
    """
    checked = check_id(run_id)
    if len(checked.encode()) > RUN_ID_BYTES_MAX:
        raise InvalidKey(f"run id {checked[:40]!r}... has over {RUN_ID_BYTES_MAX} bytes: its snapshots need the rest")
    return checked
