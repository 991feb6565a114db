"""Scopes, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from holdfast.flights import Resolved
from holdfast.keys import Key
from holdfast.scopes import scoped
from holdfast.scopes.floors import NEVER, Floor, Floors
from holdfast.scopes.scoped import ScopedReader
from holdfast.scopes.session import Session
from simulation.mutants.registry import mutant
from simulation.travellers import Traveller


@mutant("S2")
def scopes_without_tokens(patch: pytest.MonkeyPatch) -> None:
    """Each server's scope begins anew."""
    patch.setattr(Traveller, "takes_token", False)


@mutant("S1")
def scope_believes_its_caches(patch: pytest.MonkeyPatch) -> None:
    """Whatever was seen, the feed has come past it."""
    patch.setattr(Session, "passed", lambda self, floor: True)


@mutant("S1")
def scope_keeps_no_floors(patch: pytest.MonkeyPatch) -> None:
    """What a call showed or made is forgotten."""
    patch.setattr(Floors, "see", lambda *arguments: None)


@mutant("S1")
def scope_forgets_transactions(patch: pytest.MonkeyPatch) -> None:
    """What SQL changed is not kept to."""
    patch.setattr(Floors, "see_all", lambda self, moment: None)


@mutant("S2")
def token_is_always_covered(patch: pytest.MonkeyPatch) -> None:
    """The receiver takes its feed to be as far as the issuer's."""
    patch.setattr(Session, "_covers", lambda self, token: True)


@mutant("S2")
def token_carries_no_floors(patch: pytest.MonkeyPatch) -> None:
    """What the issuer's feed had not come past is left out."""
    begin = Floors.__init__

    def without(
        self: Floors, carried: Mapping[bytes, int] | None = None, carried_at: float = NEVER, *, everything: bool = False
    ) -> None:
        begin(self, {}, carried_at, everything=everything)

    patch.setattr(Floors, "__init__", without)


@mutant("V1-S1")
def higher_version_is_newer(patch: pytest.MonkeyPatch) -> None:
    """Any version above the one seen is believed; after a delete and a new insert it may be the older one."""

    def is_held(self: ScopedReader, key: Key, floor: Floor) -> bool:
        return bool(floor.version) and (self._reader.held_version(key) or 0) >= (floor.version or 0)

    def is_doubtful(floor: Floor | None, resolved: Resolved) -> bool:
        return floor is not None and (floor.version is None or resolved.version < floor.version)

    patch.setattr(ScopedReader, "_is_held", is_held)
    patch.setattr(scoped, "_is_doubtful", is_doubtful)
