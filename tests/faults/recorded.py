"""Whether recovery has recorded the faults that happened: each with what was done about it, and what came of that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from fix_races import until
from fix_tiers import flows_of
from holdfast.node import OpenStore
from holdfast.protocols import RecoveryLine
from holdfast.protocols.recovery import LINES_LISTED_MAX
from holdfast.recovery.strategies import Fallback, RecoveryAction
from holdfast.recovery.telling import End

NOTICED_SECONDS = 2.0
"""What lasts so long is met; what is over before may pass unseen."""
LATE_SECONDS = 1.0
"""After its end, a recovery may begin that was met before."""
STEPS: Final = frozenset({*RecoveryAction, *Fallback})


class Episode(NamedTuple):
    """A fault that happened.

    Attributes:
        subjects: how the subject of a recovery may begin that is of it.
        began, ended: seconds since 1970.
    """

    name: str
    subjects: tuple[str, ...]
    began: float
    ended: float


def unrecorded(episodes: Iterable[Episode], lines: Iterable[RecoveryLine]) -> list[str]:
    """Names of faults that are to be in the recovery log, and are not with a step and an outcome."""
    recoveries = defaultdict[str, list[RecoveryLine]](list)
    for line in lines:
        recoveries[line.recovery_id].append(line)
    return [
        episode.name
        for episode in episodes
        if episode.ended - episode.began >= NOTICED_SECONDS
        and not any(_is_of(episode, each) for each in recoveries.values())
    ]


def _is_of(episode: Episode, recovery: list[RecoveryLine]) -> bool:
    """An outage is one recovery, however long it takes, which may have begun with the one before."""
    at = [line.at.timestamp() for line in recovery]
    return (
        recovery[0].subject.startswith(episode.subjects)
        and min(at) <= episode.ended + LATE_SECONDS
        and max(at) >= episode.began
        and any(line.step in STEPS and line.outcome for line in recovery)
        and any(line.step == "completed" and line.outcome in set(End) for line in recovery)
    )


async def lines_of_recovery(servers: Mapping[str, OpenStore]) -> list[RecoveryLine]:
    """All lines of the recovery log, once L3 has what the servers kept."""
    recorders = [flows_of(store).recovery_log for store in servers.values()]

    async def all_is_written() -> bool:
        return not any(recorder.waiting for recorder in recorders)

    await until(all_is_written)
    log = flows_of(next(iter(servers.values())))._given.recovery_log
    lines: list[RecoveryLine] = []
    after = 0
    while page := await log.list(after=after, limit=LINES_LISTED_MAX):
        lines += [each.line for each in page]
        after = page[-1].number
    return lines
