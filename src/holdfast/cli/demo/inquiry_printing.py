"""The report of `holdfast demo --conflicts` in words."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from holdfast.cli.demo.inquiry import InquiryReport, Outcome


def print_inquiry(report: InquiryReport, console: Console) -> None:
    """Print what became of each variable, and why. Long lines are left to the terminal: a pipe gets them whole."""
    for each in report.outcomes:
        for line in _outcome(each):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in (
        f"Review {report.review}: resolved by {report.resolved_by}; the merge waited {report.waited_seconds:.2f} s",
        f"On the swarm's blackboard: {', '.join(report.blackboard)}",
        f"Refused: {', '.join(report.refused)}",
        f"The secret: read by the inquiry: {_yes(is_so=report.secret_opened)}; rows that show it: {report.secret_rows}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    verdict = "every variable is what its strategy makes of it" if report.passed else "SOMETHING IS NOT AS IT MUST BE"
    console.print(verdict, style="bold green" if report.passed else "bold red", markup=False, highlight=False)


def _outcome(outcome: Outcome) -> Iterator[str]:
    yield f"{outcome.name}, {outcome.strategy}:"
    yield f"  the inquiry wrote {outcome.inquiry!r}; hall 1 exported {outcome.halls[0]!r}, hall 2 {outcome.halls[1]!r}"
    for reason in outcome.reasons:
        yield f"  conflict: {reason}"
    wrong = "" if outcome.stands == outcome.expected else f"; IT MUST BE {outcome.expected!r}"
    yield f"  it is {outcome.stands!r}{wrong}"


def _yes(*, is_so: bool) -> str:
    return "yes" if is_so else "NO"
