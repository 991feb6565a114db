"""Warnings that come again every few seconds, logged once."""

from __future__ import annotations

import logging
from typing import Final

TEXTS_MAX: Final = 1000
"""Warnings that are remembered; those logged longest ago make room, and are logged again if they come again."""


class LogOnce:
    """Logs a warning unless it has logged the same one before."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged: dict[str, None] = {}

    def warning(self, text: str) -> None:
        """Log it, if it is new."""
        if text in self._logged:
            return
        self._logged[text] = None
        if len(self._logged) > TEXTS_MAX:
            del self._logged[next(iter(self._logged))]
        self._logger.warning("%s", text)
