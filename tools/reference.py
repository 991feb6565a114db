"""Write docs/reference/settings.md and errors.md from the package itself: ``python tools/reference.py``.

A test fails when they differ from what the code says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast import errors
from holdfast.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"


def settings_page() -> str:
    """Each setting with its meaning, unit and default, from the docstring of `Settings`."""
    lines = [
        "# Settings",
        "",
        "Arguments of `connect` win over the environment, which wins over a TOML file (`HOLDFAST_CONFIG`).",
        "Made by `python tools/reference.py` from `holdfast.settings.Settings`.",
        "",
        "| setting | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    for names, meaning in _attributes(inspect.getdoc(Settings) or ""):
        for name in names:
            shown = ",".join(value) if isinstance(value := defaults[name], tuple) else value
            lines.append(f"| `{name}` | `{PREFIX}{name.upper()}` | `{shown!r}` | {meaning} |")
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """The tree of errors, each with the first paragraph of its docstring."""
    lines = ["# Errors", "", "Made by `python tools/reference.py` from `holdfast.errors`.", ""]

    def walk(error: type[Exception], depth: int) -> None:
        text = " ".join((inspect.getdoc(error) or "").split("\n\n")[0].split())
        lines.append(f"{'  ' * depth}- **{error.__name__}**: {text}")
        for child in sorted(error.__subclasses__(), key=lambda child: child.__name__):
            if child.__module__ == errors.__name__:
                walk(child, depth + 1)

    walk(errors.HoldfastError, 0)
    return "\n".join(lines) + "\n"


def _attributes(docstring: str) -> Iterator[tuple[list[str], str]]:
    """Names and texts of the Attributes section."""
    section = docstring.partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?=    \w)", "\n" + section):
        names, _, text = entry.strip().partition(": ")
        if names:
            yield [name.strip() for name in names.split(",")], " ".join(text.split())


PAGES = {"settings.md": settings_page, "errors.md": errors_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
