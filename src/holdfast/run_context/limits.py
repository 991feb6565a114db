"""How large a run may become (pure)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from holdfast.documents import Limits, RunContextSnapshot, encode
from holdfast.errors import InvalidKey, LimitExceeded, SettingsError
from holdfast.keys import ID_BYTES_MAX, check_id

RUN_ID_BYTES_MAX: Final = ID_BYTES_MAX - len("/00000000.base")
"""So that each of its snapshots has an id too."""

_LEVELS_ABOVE: Final = 2
"""Levels of containers around a value in the run's row, more than in a snapshot."""


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of each run; what would pass one is refused with `LimitExceeded`, and nothing is changed.

    Attributes:
        variables_max: variables of a context; setting `run_variables_max`.
        bytes_max: of all it holds as JSON; a base must fit in one document; setting `run_bytes_max`.
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

    def measured(self, **part: Any) -> int:
        """Bytes of part of a context as JSON, without what surrounds it.

        Args:
            part: fields of a snapshot.

        Raises:
            InvalidDocument: it cannot be stored; `path` says where in the context, and why.
        """
        within = Limits(bytes_max=1 << 40, depth_max=max(self.value_depth_max - _LEVELS_ABOVE, 1))
        size = len(encode(RunContextSnapshot(run_id="", routine_id="", sequence=0, **part), within)) - _BLANK_BYTES
        return size - sum(_AROUND_BYTES[name] for name, value in part.items() if value)


_AROUND_BYTES: Final = {
    "inputs": len(',"inputs":{}'),
    "variables": len(',"variables":{}'),
    "intermediate": len(',"intermediate":{}'),
    "exports": len(',"exports":{}'),
    "step_history": len(',"stepHistory":[]'),
}
_BLANK_BYTES: Final = len(encode(RunContextSnapshot(run_id="", routine_id="", sequence=0)))


def check_run_id(run_id: object) -> str:
    """Return the id unchanged if it can name a run.

    Raises:
        InvalidKey: it is no id, or over 498 bytes of UTF-8.
    """
    checked = check_id(run_id)
    if len(checked.encode()) > RUN_ID_BYTES_MAX:
        raise InvalidKey(f"run id {checked[:40]!r}... has over {RUN_ID_BYTES_MAX} bytes: its snapshots need the rest")
    return checked
