"""The reference pages say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

from holdfast.recovery.strategies import RECOVERY_STRATEGIES, Fallback, RecoveryAction
from holdfast.settings import Settings

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
assert SPEC is not None
assert SPEC.loader is not None
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_a_page_is_current(name: str) -> None:
    """Each generated page equals what the tool would write now."""
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run: python tools/reference.py"


def test_every_setting_is_documented() -> None:
    """No setting lacks its line in the docstring, and no line names a setting that is gone."""
    page = reference.settings_page()
    for field in msgspec.structs.fields(Settings):
        assert page.count(f"| `{field.name}` |") == 1, field.name


def test_the_page_of_recovery_has_the_strategies() -> None:
    """Each row has its severity, steps and fallbacks, in their order; each of these is explained."""
    page = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
    for row in RECOVERY_STRATEGIES:
        steps = [step.action.value for step in row.recovery_steps]
        fallbacks = [option.strategy.value for option in row.fallback_options]
        (line,) = re.findall(rf"^\| `{row.error_type}` .*$", page, re.MULTILINE)
        assert re.findall("`(.+?)`", line) == [row.error_type, *steps, *fallbacks]
        assert f"| {row.severity} |" in line
    for word in (*RecoveryAction, *Fallback):
        assert len(re.findall(rf"^\| `{word}` \| \w", page, re.MULTILINE)) == 1, word
