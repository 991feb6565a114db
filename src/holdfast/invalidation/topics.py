"""Topics and the patterns that select them (pure).

A topic is 1 to 16 segments with slashes between, such as ``config/changed``. In a pattern ``*`` stands for one segment
and ``**``, at its end, for any number, none included: ``config/*``, ``run/*/step``, ``team/**``, ``**``.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from holdfast.errors import InvalidTopic

SEGMENTS_MAX: Final = 16
TOPIC_CHARS_MAX: Final = 256
_SEGMENT: Final = re.compile(r"[a-z0-9_.-]{1,64}\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_RULE: Final = "segments are 1 to 64 of a-z 0-9 _ . -"


class Pattern(msgspec.Struct, frozen=True):
    """A compiled pattern.

    Attributes:
        text: as it was written.
        segments: before a final ``**``; ``*`` among them matches any.
        open: it ends with ``**``.
    """

    text: str
    segments: tuple[str, ...]
    open: bool

    def matches(self, topic: str) -> bool:
        """Whether the topic is one of those that the pattern stands for."""
        parts = topic.split("/")
        if len(parts) < len(self.segments) or (len(parts) > len(self.segments) and not self.open):
            return False
        return all(segment in {"*", part} for segment, part in zip(self.segments, parts, strict=False))


def check_topic(topic: str) -> str:
    """Return the topic unchanged if events can be published to it.

    Raises:
        InvalidTopic: it breaks the rules above.
    """
    for segment in _split(topic, "topic"):
        if not _SEGMENT.match(segment):
            raise InvalidTopic(f"topic {topic!r}: {segment!r}: {_RULE}")
    return topic


def compile_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        InvalidTopic: it breaks the rules above.
    """
    segments = _split(text, "pattern")
    is_open = segments[-1] == "**"
    segments = segments[:-1] if is_open else segments
    for segment in segments:
        if segment != "*" and not _SEGMENT.match(segment):
            raise InvalidTopic(f"pattern {text!r}: {segment!r}: {_RULE}, or *, or ** at the end")
    return Pattern(text, tuple(segments), is_open)


def check_group(name: str) -> str:
    """Return the name unchanged if it can name a group.

    Raises:
        InvalidTopic: not 1 to 64 of ``a-z A-Z 0-9 _ . -``.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidTopic(f"group {name!r}: use 1 to 64 of a-z, A-Z, 0-9, _, . and -")
    return name


def _split(text: str, what: str) -> list[str]:
    if not isinstance(text, str):
        raise InvalidTopic(f"a {what} is text, not {type(text).__name__}")
    segments = text.split("/")
    if len(text) > TOPIC_CHARS_MAX or len(segments) > SEGMENTS_MAX:
        shown = f"{text[:40]}..." if len(text) > TOPIC_CHARS_MAX else text
        raise InvalidTopic(f"{what} {shown!r}: at most {TOPIC_CHARS_MAX} characters and {SEGMENTS_MAX} segments")
    return segments
