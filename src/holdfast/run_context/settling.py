"""Conflicts of variables that may be secret: decided by their plain values, and told by the sealed ones (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from holdfast.documents import ContextVariable, FreeValue, Sealed
from holdfast.entry import MISSING
from holdfast.run_context.conflicts import Resolution, VariableConflict
from holdfast.run_context.hybrid_clock import HybridTime
from holdfast.run_context.secrets import place_of
from holdfast.sensitivity.known_keys import KnownKeys


class Settled(NamedTuple):
    """What became of a conflict.

    Attributes:
        conflict: as it was given; `opened`: with plain values.
        resolution: of the latter; its value is plain.
    """

    conflict: VariableConflict
    opened: VariableConflict
    resolution: Resolution

    @property
    def is_secret(self) -> bool:
        """Whether anything of a sealed value is in the one that stands."""
        stands, conflict, plain = self.resolution.value, self.conflict, self.opened
        if stands is MISSING:
            return False
        for sealed, value in (
            (conflict.parent_value, plain.parent_value),
            (conflict.child_value, plain.child_value),
        ):
            if stands is value:
                return type(sealed) is Sealed
        return type(conflict.parent_value) is Sealed or type(conflict.child_value) is Sealed

    def told(self, variables: Mapping[str, ContextVariable]) -> Resolution:
        """The resolution as it may be seen: in the place of a secret stands what the run holds now, which is sealed."""
        if not self.is_secret:
            return self.resolution
        held = variables.get(self.conflict.variable_name)  # another conflict about it may have removed it
        return msgspec.structs.replace(self.resolution, value=MISSING if held is None else held.value)


def settled(conflict: VariableConflict, run_id: str, keys: KnownKeys) -> Settled:
    """Decide a conflict between values of one run, each sealed for its own clock, if it is sealed.

    An ancestor that is sealed counts as not known, since nothing says which write it is of.

    Raises:
        KeyMissing, SealBroken: as `secrets.opened`.
    """

    def plain(value: FreeValue, clock: HybridTime | None) -> FreeValue:
        if type(value) is not Sealed:
            return value
        return keys.open(value, place_of(run_id, conflict.variable_name, "" if clock is None else clock.as_text()))

    opened = msgspec.structs.replace(
        conflict,
        parent_value=plain(conflict.parent_value, conflict.parent_clock),
        child_value=plain(conflict.child_value, conflict.child_clock),
        ancestor=MISSING if type(conflict.ancestor) is Sealed else conflict.ancestor,
    )
    return Settled(conflict, opened, opened.resolution())
