"""`holdfast keys`: the master keys by which secret variables are protected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import cyclopts
import msgspec
from rich.console import Console

from holdfast.audit.log import AuditLog
from holdfast.cli.serving import opened_pool
from holdfast.cli.showing import line, show
from holdfast.node import process_name
from holdfast.protocols import MasterKeyUse
from holdfast.sensitivity.master_keys import MASTER_KEY_BYTES, SETTING, MasterKeys, master_key_line
from holdfast.sensitivity.rotating import BY_HAND
from holdfast.sensitivity.rotating import rotate as rotate_keys
from holdfast.settings import PREFIX
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_keys import PostgresKeys

COLUMNS: Final = ("master key", "data keys", "state", "in the settings")
VARIABLE: Final = PREFIX + SETTING.upper()

keys = cyclopts.App(name="keys", help="Master keys: they wrap the data keys that secret variables are sealed with.")


class KeyLine(msgspec.Struct, frozen=True):
    """A master key as it is listed.

    Attributes:
        rows: data keys that it wraps in L3.
        state: "first", "used", "retired", or "unused".
        named: whether the settings of this command have it.
    """

    id: str
    rows: int
    state: str
    named: bool


@keys.command
def new(*, id: str | None = None) -> None:  # noqa: A002 - the option
    """Print a new master key, as the setting takes it. It is stored nowhere: keep it where you keep passwords.

    To begin, set it as HOLDFAST_MASTER_KEYS for all servers. To replace an older one: name it behind the older one on
    all servers, separated by a comma, and restart them; then name it first, and restart them; then run `holdfast keys
    rotate`, after which the older one can go.

    Parameters
    ----------
    id
        A name for it, of letters, digits and ._-; by default one is made.
    """
    text = master_key_line(id or f"m{os.urandom(4).hex()}", os.urandom(MASTER_KEY_BYTES))
    line(Console(stderr=True), f"a secret; what the servers need is {VARIABLE} with it, or with several by commas")
    line(Console(), text)


@keys.command(name="list")
async def list_(*, json: bool = False) -> None:
    """Show the master keys that L3 knows or the settings name, and how many data keys each wraps; never a key.

    Parameters
    ----------
    json
        JSON on a terminal too.
    """
    async with opened_pool(size_max=2) as (settings, pool):
        lines = list(_lines(MasterKeys.read(settings.master_keys), await PostgresKeys(pool).masters()))
    show(lines, COLUMNS, _cells, "there is no master key; `holdfast keys new` makes one", json=json)


@keys.command
async def rotate(*, reason: str = BY_HAND, by: str | None = None) -> int:
    """Wrap all data keys by the first master key of the settings, and retire all others, for good.

    Servers go on meanwhile, and no sealed value is touched; within a minute each seals with a new data key. It can be
    broken off and run again, also by two at once.
    The exit status is 1 if a data key could not be wrapped anew: its master key must be among those of the settings.
    The audit log says so before it begins.

    Parameters
    ----------
    reason
        Why, for the audit log.
    by
        Who rotates, for the audit log; by default user@host:pid.
    """
    progress, console = Console(stderr=True), Console()
    async with opened_pool(size_max=2) as (settings, pool):
        rotated = await rotate_keys(
            PostgresKeys(pool),
            MasterKeys.read(settings.master_keys),
            os.urandom,
            lambda text: line(progress, text),
            audit=AuditLog(PostgresAudit(pool), server=process_name()),
            actor=by or process_name(),
            reason=reason,
        )
    for fault in rotated.faults:
        line(progress, fault)
    retired = ", ".join(rotated.retired) or "none"
    line(console, f"{rotated.rewrapped} data keys wrapped anew by {rotated.first}; retired: {retired}")
    line(console, f"{rotated.left} data keys are left under other master keys")
    return 1 if rotated.left else 0


def _lines(masters: MasterKeys, uses: Iterable[MasterKeyUse]) -> Iterator[KeyLine]:
    known = {each.id: each for each in uses}
    for identifier in dict.fromkeys((*masters.ids, *known)):
        use, is_first = known.get(identifier), masters.ids[:1] == (identifier,)
        is_retired = use is not None and use.retired_at is not None
        state = "retired" if is_retired else "first" if is_first else "used" if use is not None else "unused"
        yield KeyLine(identifier, 0 if use is None else use.rows, state, identifier in masters.ids)


def _cells(each: KeyLine) -> Sequence[str]:
    return each.id, str(each.rows), each.state, "yes" if each.named else "no"
