"""Why a cached answer was wrong: the most likely cause, from what the server remembers of its key (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.entry import Tier
from holdfast.invalidation.consistency import Suspect
from holdfast.invalidation.key_history import Event, Line

_NEWS: Final = {Event.FED, Event.DELETED, Event.TOLD}
_VOIDS: Final = {Event.KIND_FED, Event.DOUBTED, Event.FLUSHED}


def news_of(suspect: Suspect, lines: Sequence[Line]) -> Line | None:
    """When this server learnt first of what L3 holds; of a row that is gone, when it learnt last of something newer."""
    news = [line for line in lines if line.event in _NEWS]
    if suspect.truth:
        return next((line for line in news if line.version == suspect.truth), None)
    return next((line for line in reversed(news) if line.version > suspect.sample.version), None)


def differed_since(suspect: Suspect, lines: Sequence[Line], *, seen_at: float) -> float:
    """From when on the entry was wrong for sure: it was there, and L3 had moved away. Monotonic seconds.

    Args:
        seen_at: when it was seen to be so.
    """
    coming = Event.FILLED if suspect.sample.tier is Tier.L1 else Event.OFFERED
    arrivals = [line for line in lines if line.event is coming and line.version == suspect.sample.version]
    news = news_of(suspect, lines)
    return min(seen_at, max(news.moment, arrivals[-1].moment)) if news is not None and arrivals else seen_at


def cause(suspect: Suspect, lines: Sequence[Line], *, now: float, complete_since: float) -> str:
    """The most likely cause, in one sentence or two.

    Args:
        lines: what is remembered of the key, oldest first.
        now, complete_since: monotonic seconds; from when on nothing was forgotten.
    """
    sample, truth = suspect.sample, suspect.truth
    if sample.version == truth:
        return (
            f"L3 holds something else at version {truth}: the row was changed without drawing a version (its triggers "
            f"were off), or the copy was damaged."
        )
    news = news_of(suspect, lines)
    told = _told(suspect, lines, news, now) if news is not None else _not_told(suspect, lines, now, complete_since)
    if sample.tier is Tier.L1:
        return told
    offered = any(line.event is Event.OFFERED and line.version == sample.version for line in lines)
    filler = "this server" if offered else "another server, or longer ago than this one remembers"
    return f"L2's entry was read from L3 {now - sample.read_at:.3f} s ago and filled by {filler}. {told}"


def _told(suspect: Suspect, lines: Sequence[Line], news: Line, now: float) -> str:
    """The fence is known: why did it not help?"""
    sample = suspect.sample
    word = f"Word of {_named(suspect.truth)} came {now - news.moment:.3f} s ago"
    if sample.tier is Tier.L2:
        if sample.read_at >= news.moment:
            return f"{word}, before the entry claims to have been read: its filler read the past, or wrote no fill."
        return f"{word}, after the entry was read: it outlived its fence, or was filled after that had ended."
    fills = [line for line in lines if line.event is Event.FILLED and line.version == sample.version]
    late = next((line for line in fills if line.moment > news.moment), None)
    if late is not None:
        after = late.moment - news.moment
        what = f"{_named(sample.version)} was filled from {late.origin}"
        return f"{word}, and {what} {after:.3f} s after it: it was not refused."
    if fills:
        return f"{word}, after {_named(sample.version)} was filled: its fence did not remove the entry."
    return f"{word}, and no fill of {_named(sample.version)} is remembered: it came into L1 by another way."


def _not_told(suspect: Suspect, lines: Sequence[Line], now: float, complete_since: float) -> str:
    """No fence is known: was there none?"""
    sample, what = suspect.sample, _named(suspect.truth)
    void = next((line for line in reversed(lines) if line.event in _VOIDS and line.moment >= sample.read_at), None)
    if void is not None:
        since = f"{now - void.moment:.3f} s ago, after the value was read"
        return f"Nobody told of {what} by itself, but {void.event.value} {since}: that did not make the entry void."
    if complete_since <= sample.read_at:
        # What was read then was L3's own, so the change came later, and word of it would be remembered.
        return (
            f"This server was never told of {what}, and remembers all since the value was read: the feed left it out."
        )
    reach = f"only the last {now - complete_since:.3f} s are remembered here"
    if sample.tier is Tier.L1:
        return f"If this server was told of {what}, it is no longer remembered ({reach})."
    return (
        f"This server was not told of {what} ({reach}) and relied on the node's watermark, which covers what came "
        f"before: the node was not fenced, or its fence did not refuse this entry."
    )


def _named(version: int) -> str:
    return f"version {version}" if version else "the row's absence"
