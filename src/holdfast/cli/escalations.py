"""`holdfast escalations`: faults that a person is asked about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.serving import serving
from holdfast.cli.showing import Place, line, show, tell_left_out
from holdfast.errors import NotFound
from holdfast.node import process_name
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX
from holdfast.recovery.escalation_rules import EscalationNotice, notice_of
from holdfast.recovery.strategies import Fallback

COLUMNS = ("id", "status", "severity", "subject", "failed", "opened", "deadline", "decided by", "cursor")
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]
HELP = """Faults that no recovery has mended, and that a person decides.

What nobody has decided by its deadline is left to the fallback that `show` names. The setting escalation_webhook_url
says where each is posted to when it is opened and when it is decided; notices that could not be brought there are shown
by `holdfast exports`.
"""
escalations = cyclopts.App(name="escalations", help=HELP)


class EscalationLine(EscalationNotice, frozen=True, kw_only=True, rename="camel"):
    """An escalation in a list; `cursor`: for `list --after`, to go on behind it."""

    cursor: int


@escalations.command(name="list")
async def list_(
    *,
    status: Literal["open", "resolved", "timed_out", "any"] = "open",
    run: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=DECISIONS_LISTED_MAX))] = 100,
    after: Place | None = None,
    json: bool = False,
) -> None:
    """Show escalations, the oldest first; what was tried is shown by `show`.

    On a terminal it is a table, otherwise one JSON object a line.

    Parameters
    ----------
    status
        What became of them.
    run
        Id of the run that they concern.
    limit
        How many to show.
    after
        The cursor of the last one shown: those behind it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        wanted = None if status == "any" else status
        found = await state.escalations.list(status=wanted, run_id=run, after=after, limit=limit)
    lines = [_line(notice_of(each.id, each.document), each.cursor) for each in found]
    show(lines, COLUMNS, _cells, "there is no such escalation", json=json)
    tell_left_out([each.cursor for each in found], found.unreadable, limit)


@escalations.command(name="show")
async def show_(escalation: str, /, *, json: bool = False) -> None:
    """Show an escalation: what failed, what was tried, what there is to choose from, and until when.

    Parameters
    ----------
    escalation
        Its id, as `list` shows it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        found = await state.escalations.get(escalation)
    if found is None:
        raise NotFound(f"there is no escalation {escalation}; `holdfast escalations list` shows those that there are")
    notice = notice_of(escalation, found)
    console = Console()
    if json or not console.is_terminal:
        line(console, msgspec.json.encode(notice).decode())
        return
    for text in _words(notice):
        line(console, text)


@escalations.command
async def resolve(escalation: str, /, *, decision: Text, reason: Text, by: str | None = None) -> None:
    """Decide an escalation, before its fallback does. Who did and why is kept in the audit log, and its hooks are told.

    Parameters
    ----------
    escalation
        Its id, as `list` shows it.
    decision
        One of its options; in your words, if it has none. `show` tells.
    reason
        Why, for the audit log.
    by
        Who decides, for the audit log; by default user@host:pid.
    """
    async with serving() as state:
        done = await state.escalations.resolve(escalation, decision=decision, by=by or process_name(), reason=reason)
    line(Console(), f"{escalation}: {done.status} by {done.resolved_by}, for: {done.decision}")
    if done.recovery_id and done.decision in list(Fallback):
        log = f"`holdfast recovery log --recovery {done.recovery_id}`"
        line(Console(stderr=True), f"{done.decision} was begun; what came of it is in {log}")


def _line(notice: EscalationNotice, cursor: int) -> EscalationLine:
    return EscalationLine(**msgspec.structs.asdict(notice), cursor=cursor)


def _cells(each: EscalationLine) -> Sequence[str]:
    what = each.id, each.status, each.severity, each.subject, each.failed
    return *what, _time(each.opened_at), _time(each.deadline), each.resolved_by, str(each.cursor)


def _words(notice: EscalationNotice) -> Iterator[str]:
    """An escalation, line by line."""
    yield f"escalation {notice.id}: {notice.status}"
    yield f"  {notice.severity} at {notice.subject}: {notice.failed}"
    concerned = {"run": notice.run_id, "swarm": notice.swarm_id, "recovery": notice.recovery_id}
    if told := ", ".join(f"{what} {which}" for what, which in concerned.items() if which):
        yield f"  it concerns {told}"
    if notice.further:
        yield f"  it stands for {notice.further} further reports"
    if notice.evidence:
        yield f"  what is bad has the SHA-256 {notice.evidence}"
    for each in notice.tried:
        yield f"  tried {each.step}: {each.outcome}{each.detail and ', '}{each.detail}"
    yield f"  opened {_time(notice.opened_at)}"
    cost = f" ({notice.cost})" if notice.cost else ""
    yield f"  to be decided until {_time(notice.deadline)}, then: {notice.fallback or 'nothing is done'}{cost}"
    if notice.options:
        yield f"  options: {', '.join(notice.options)}"
    if notice.decision is not None:
        decision = notice.decision or "no decision"
        yield f"  decided {_time(notice.resolved_at)} by {notice.resolved_by}: {decision}; {notice.reason}"


def _time(at: dt.datetime | None) -> str:
    return "" if at is None else at.isoformat(" ", "seconds")
