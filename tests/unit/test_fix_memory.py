"""Where tests may write to memory."""

from __future__ import annotations

from pathlib import Path

import pytest

import fix_memory
from fix_memory import has_room

ENOUGH = "MemAvailable:   99000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose folder has room, whatever the disk of this one has."""
    monkeypatch.setattr(fix_memory, "BYTES_MIN", 1_000_000)
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n" + ENOUGH)
    return tmp_path


def told(machine: Path) -> bool:
    return has_room(machine, machine / "meminfo", machine)


def test_there_is_room_where_folder_memory_and_container_have_it(machine: Path) -> None:
    """What has no limit limits nothing."""
    assert told(machine)
    (machine / "memory.max").write_text("max\n")
    assert told(machine)
    (machine / "memory.max").write_text("3000000\n")
    (machine / "memory.current").write_text("1000000\n")
    assert told(machine)


def test_too_little_of_any_is_too_little(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be larger than the memory that is left, or than a container may take."""
    (machine / "memory.max").write_text("3000000\n")
    (machine / "memory.current").write_text("2500000\n")
    assert not told(machine)
    (machine / "memory.max").unlink()
    (machine / "meminfo").write_text("MemAvailable: 900 kB\n")
    assert not told(machine)
    (machine / "meminfo").write_text(ENOUGH)
    monkeypatch.setattr(fix_memory, "BYTES_MIN", 1 << 60)
    assert not told(machine)


def test_where_nobody_tells_there_is_none(machine: Path) -> None:
    """As on systems that are no Linux."""
    (machine / "meminfo").unlink()
    assert not told(machine)
    assert not has_room(machine / "absent")
