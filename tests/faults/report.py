"""Show the figures that `make faults` kept as a table; with ``--write`` also in docs/reference/proof.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from faults.figures import FOLDER_VARIABLE, kept, table, written

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "proof.md"


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    if unknown := set(arguments) - {"--write"}:
        sys.stderr.write(f"faults: {', '.join(sorted(unknown))} is no argument; there is --write\n")
        return 2
    shown = table(kept(Path(os.environ[FOLDER_VARIABLE])))
    sys.stdout.write(f"{shown}\n")
    if arguments:
        PAGE.write_text(written(PAGE.read_text("utf-8"), shown), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
