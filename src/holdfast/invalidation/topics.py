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
STATE_UPDATED: Final = "state/updated"
CONFIG_CHANGED: Final = "config/changed"
ROUTINE_MODIFIED: Final = "routine/modified"
INVALIDATE_L1: Final = "cache/invalidate_l1"
STATE_RESET: Final = "state/reset"
WRITE_REFUSED: Final = "state/write_refused"
MODE_CHANGED: Final = "state/mode/changed"
RECOVERY_STEP: Final = "state/recovery/step"
RECOVERY_COMPLETED: Final = "state/recovery/completed"
RECOVERY_RETURNED: Final = "state/recovery/returned"
FEED_TOPICS: Final = frozenset({STATE_UPDATED, CONFIG_CHANGED, ROUTINE_MODIFIED, INVALIDATE_L1, STATE_RESET})
"""What each server tells its own subscribers as it follows the change feed; see `announcing`."""
RESERVED: Final = FEED_TOPICS | {
    WRITE_REFUSED,
    "cache/inconsistent",
    MODE_CHANGED,
    RECOVERY_STEP,
    RECOVERY_COMPLETED,
    RECOVERY_RETURNED,
}
"""What the store alone tells, beside the feed write-behind, verifier, health and recovery; others would mislead."""
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
        InvalidTopic: it breaks the rules above, or is one that the store alone tells.
    """
    if topic in RESERVED:
        raise InvalidTopic(f"topic {topic!r}: the store itself tells it, and nobody else may")
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


def check_group(name: str, pattern: Pattern) -> str:
    """Return the name unchanged if it can name a group for a pattern.

    Raises:
        InvalidTopic: not 1 to 64 of ``a-z A-Z 0-9 _ . -``, or the pattern is a topic that no group is told.
    """
    if pattern.text in RESERVED:
        raise InvalidTopic(f"group {name!r}: each server tells {pattern.text!r} to its own: subscribe without a group")
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
