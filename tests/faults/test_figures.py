"""Figures are kept, shown and written where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.figures import BEGIN, END, FOLDER_VARIABLE, Figures, Skipped, keep, kept, table, written

SKIPPED = Skipped("disk full", "l3", "no tmpfs may be mounted here")
SEEN = Figures(
    cell="L2 paused",
    layer="l2",
    fault_seconds=30.0,
    calls=200,
    calls_during=150,
    errors={"put TierUnavailable": 2},
    errors_outside={},
    said={},
    oldest_seconds=0.0123,
    bound_seconds=0.25,
    labelled=7,
    oldest_labelled_seconds=4.25,
    acknowledged={"accepted": 30, "journaled": 20, "committed": 10},
    lost={"accepted": 1, "journaled": 0, "committed": 0},
    unwritten=0,
    longest_seconds={"read": 0.5, "put": 1.25},
    warm_p95_seconds=(0.0001, 0.002),
    normal_after_seconds=2.0,
    modes=["l2_bypassed"],
    mode_after_seconds=0.4,
    violations=[],
)


def test_what_is_kept_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms, ordered by layer; without a folder nothing is kept."""
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    keep(SEEN)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    keep(SKIPPED)
    keep(SEEN)
    assert kept(tmp_path) == [SEEN, SKIPPED]


def test_the_table_has_a_row_for_each() -> None:
    """Every row has as many cells as the head."""
    head, rule, seen, skipped = table([SEEN, SKIPPED]).splitlines()
    assert {row.count("|") for row in (rule, seen, skipped)} == {head.count("|")}
    assert "2 put TierUnavailable" in seen
    assert "0 of 10, 0 of 20, 1 of 30" in seen
    assert "1.25 s (put)" in seen
    assert "0.40 s (l2_bypassed)" in seen
    assert "no tmpfs" in skipped


def test_a_page_keeps_what_is_around_the_marks() -> None:
    """Again and again; a page without marks is refused."""
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = written(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert written(once, "newer") == f"before\n{BEGIN}\nnewer\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place for the figures"):
        written("nothing", "new")
