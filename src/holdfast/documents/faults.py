"""A fault inside a document and the path to it, gathered from the inside out.

Walks raise a `FaultError` where something is wrong and each level adds its own step while it passes, so that
a sound document pays nothing for paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast.errors import DocumentTooDeep, HoldfastError, InvalidDocument

PATH_CHARS_MAX = 240
DEPTH_CEILING = 128
"""Levels of containers that no document passes, whatever its limits: walks recurse, and the stack ends."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
_KEY_CHARS_MAX = 60


class FaultError(HoldfastError):
    """What is wrong, and the steps to it, innermost first. Never leaves `holdfast.documents`."""

    def __init__(self, reason: str, *, refusal: type[InvalidDocument] = InvalidDocument) -> None:
        """Say what is wrong; `refusal` is the error a caller gets to see."""
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal
        self._steps: list[str] = []

    def under(self, step: str) -> None:
        """Add the step of the level that the fault is passing."""
        self._steps.append(step)

    @property
    def path(self) -> str:
        """The way from the document's root, as in ``blackboard[3].value.price``."""
        return join_steps(reversed(self._steps))

    def refused(self) -> InvalidDocument:
        """The public error."""
        return self.refusal(self.path, self.reason)


def too_deep() -> FaultError:
    """The fault of a container that the depth limit leaves no room for."""
    return FaultError("nests deeper than the limit, or contains itself", refusal=DocumentTooDeep)


def join_steps(steps: Iterable[str]) -> str:
    """The steps as one path; cut where it is too long to read, as that of a value which contains itself."""
    path = "".join(steps).removeprefix(".")
    return path if len(path) <= PATH_CHARS_MAX else path[:PATH_CHARS_MAX] + "..."


def at_index(index: object) -> str:
    """The step to an item of a list or tuple."""
    return f"[{index}]"


def at_key(name: object) -> str:
    """The step to a field or a mapping's value: ``.name``, or the key's repr in brackets if it is no name."""
    if isinstance(name, str) and _PLAIN_KEY.match(name):
        return f".{name}"
    text = repr(name)
    return f"[{text if len(text) <= _KEY_CHARS_MAX else text[:_KEY_CHARS_MAX] + '...'}]"
