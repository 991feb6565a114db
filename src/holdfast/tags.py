"""Tags: names under which cached documents can be made void together (pure; rule C4).

A kind declares `tags=`, a function of its documents. A tag is any text; the built-in kinds name what they depend on
as ``bot:<id>``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast.documents import ExportedValue, Run, RunContextSnapshot, Swarm
from holdfast.errors import InvalidKey
from holdfast.keys import ID_BYTES_MAX, KIND_NAME_BYTES_MAX, check_text

TAG_BYTES_MAX: Final = KIND_NAME_BYTES_MAX + 1 + ID_BYTES_MAX
"""So that any kind and id make a tag."""

TAGS_MAX: Final = 32
"""Of one cached entry. A document may have more: it is not refused because a conversation grew."""

EVERY_TAG: Final = ""
"""In place of too many tags, or of tags that nobody can tell: what is void with any tag is void with it."""

_Tags = tuple[str, ...]


def check_tag(tag: object) -> str:
    """Return the tag unchanged if it is one.

    Raises:
        InvalidKey: it is not text, empty, over 553 bytes of UTF-8, holds NUL or is not valid Unicode.
    """
    return check_text("tag", tag, TAG_BYTES_MAX)


def checked_tags(tags: Iterable[str]) -> _Tags:
    """Tags as they are kept: each once.

    Raises:
        InvalidKey: one of them is none, or they are one text and not several.
    """
    if isinstance(tags, str):  # its characters would be taken for tags
        raise InvalidKey(f"tags are several texts, not one: [{tags!r:.60}]")
    kept = list(tags)
    for tag in kept:
        check_tag(tag)
    return tuple(dict.fromkeys(kept))


def in_cache(tags: _Tags) -> _Tags:
    """The tags of a cached entry, a bounded number."""
    return tags if len(tags) <= TAGS_MAX else (EVERY_TAG,)


def swarm_tags(swarm: Swarm) -> list[str]:
    """The bots that take part, lead it or answer its topics, and its team."""
    bots = [participant.id for participant in swarm.participants]
    for subscribers in swarm.event_subscriptions.values():
        bots += subscribers
    if swarm.swarm_leader is not None:
        bots.append(swarm.swarm_leader)
    tags = _references("bot:", bots)
    return tags if swarm.team_id is None else tags + _references("team:", [swarm.team_id])


def run_tags(run: Run) -> list[str]:
    """The routine that is run, and the swarm it works for."""
    tags = _references("routine:", [run.routine_id])
    return tags if run.swarm_id is None else tags + _references("swarm:", [run.swarm_id])


def export_tags(exported: ExportedValue) -> list[str]:
    """The routine that was run, the run, and the swarm it worked for."""
    tags = _references("routine:", [exported.routine_id]) + _references("run:", [exported.run_id])
    return tags if exported.swarm_id is None else tags + _references("swarm:", [exported.swarm_id])


def snapshot_tags(snapshot: RunContextSnapshot) -> list[str]:
    """The routine that was run."""
    return _references("routine:", [snapshot.routine_id])


def _references(kind: str, ids: Iterable[str]) -> list[str]:
    """Tags for documents of a kind. What cannot be an id names no document, and is no reason to refuse a write."""
    return [
        kind + each
        for each in ids
        if 0 < len(each) <= ID_BYTES_MAX
        and "\0" not in each
        and (each.isascii() or len(each.encode(errors="replace")) <= ID_BYTES_MAX)
    ]
