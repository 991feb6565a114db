"""`holdfast migrate`: bring the database's schema up to date."""

from __future__ import annotations

import importlib
import os
from typing import Any

from rich.console import Console

from holdfast.adapters import connection_pool, prepare
from holdfast.errors import SettingsError
from holdfast.kinds import Kind, register
from holdfast.node import with_servers
from holdfast.settings import load_settings


async def migrate(*, kinds: list[str] | None = None) -> None:
    """Apply the migrations that the database lacks, and make the tables of kinds.

    Safe to run on several servers at once: an advisory lock lets one do the work. Servers migrate by themselves when
    they connect, unless HOLDFAST_MIGRATE_ON_CONNECT is false.

    Parameters
    ----------
    kinds
        Own kinds as MODULE:NAME, where NAME is a Kind or a list of them. May be given several times.
    """
    console = Console()
    own = [kind for name in kinds or [] for kind in import_kinds(name)]
    settings = await with_servers(load_settings(environment=os.environ), console.print)
    pool = connection_pool(settings)
    try:
        applied = await prepare(pool, register(own).values(), migrate=True, progress=lambda _: None)
    finally:
        await pool.close()
    for name in applied:
        console.print(f"applied {name}", highlight=False)
    if not applied:
        console.print("nothing to do: the schema is up to date")


def import_kinds(name: str) -> list[Kind[Any]]:
    """The kinds at MODULE:NAME.

    Raises:
        SettingsError: there is no such module or name, or it is no kind.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as fault:
        raise SettingsError(f"--kinds {name}: {fault}; it takes MODULE:NAME") from fault
    kinds = list(found) if isinstance(found, (list, tuple)) else [found]
    for kind in kinds:
        if not isinstance(kind, Kind):
            raise SettingsError(f"--kinds {name}: {type(kind).__name__} is no Kind")
    return kinds
