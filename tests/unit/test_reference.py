"""The reference pages say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest

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
