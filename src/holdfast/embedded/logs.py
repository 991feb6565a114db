"""The servers' logs: bounded, and quoted where a message needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

LOG_BYTES_MAX = 8 << 20
REASON_LINES = 4
REASON_BYTES = 16_384

# PostgreSQL's words for it, and the sign that Valkey puts before the message.
_SEVERE = re.compile(r"FATAL|PANIC|ERROR|error:| # ")
_ORNAMENT = re.compile(r"# (WARNING|-+$|!!!)|^(===|---)")


def rotate(log: Path) -> int:
    """Put a log that has grown too large aside; returns the byte where new lines will begin."""
    if (grown := size(log)) <= LOG_BYTES_MAX:
        return grown
    log.replace(log.with_name(f"{log.name}.1"))
    return 0


def appending(log: Path) -> BinaryIO:
    """The log, open to add to; readable by its owner only."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def last_lines(log: Path) -> str:
    """The last lines of a log, on one line; for messages."""
    return summary(_lines(log, max(0, size(log) - REASON_BYTES)))


def complaints(log: Path, since: int) -> str:
    """What a server that has ended complained of after byte `since` of its log, or else its last lines.

    The first complaints, since a crash report or the steps of a shutdown may follow them.
    """
    lines = [line for line in _lines(log, since) if line.strip() and not _ORNAMENT.search(line)]
    first = next((place for place, line in enumerate(lines) if _SEVERE.search(line)), None)
    if first is None:
        return summary(lines)
    begin = max(0, first - 1)  # PostgreSQL says what is wrong, and then that it is fatal
    return summary(lines[begin : begin + REASON_LINES])


def summary(lines: Sequence[str]) -> str:
    """The last few lines that say something, joined."""
    return " / ".join([line.strip() for line in lines if line.strip()][-REASON_LINES:]) or "it printed nothing"


def size(log: Path) -> int:
    """How many bytes a log has; 0 if there is none."""
    return log.stat().st_size if log.exists() else 0


def _lines(log: Path, since: int) -> list[str]:
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(since)
        return file.read(LOG_BYTES_MAX).decode("utf-8", "replace").splitlines()
