"""Whether what tests write can be in memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - whose folders below are pytest's, which are closed to others
BYTES_MIN: Final = 6 * 1024**3
"""Free: a gate was seen to need 1.7 GB of it, and the machine has other work."""


def has_room(folder: Path, meminfo: Path = Path("/proc/meminfo"), control_group: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether a folder in memory takes so much, and programs. It may be larger than the memory there is.

    Args:
        control_group: of this process, as a container sees its own.
    """
    if not os.access(folder, os.W_OK | os.X_OK) or not meminfo.exists():
        return False
    found = os.statvfs(folder)
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    room = [found.f_bavail * found.f_frsize, int(available[1]) * 1024 if available else 0]
    limit, used = control_group / "memory.max", control_group / "memory.current"
    if limit.exists() and limit.read_text().strip() != "max":
        room.append(int(limit.read_text()) - int(used.read_text()))
    return min(room) >= BYTES_MIN and not found.f_flag & getattr(os, "ST_NOEXEC", 0)
