"""The main job as a command: `holdfast demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.demo.backing import backing_servers
from holdfast.cli.demo.corpus import load_corpus
from holdfast.cli.demo.files import InputError
from holdfast.cli.demo.inquiry import InquiryReport, run_inquiry
from holdfast.cli.demo.inquiry_printing import print_inquiry
from holdfast.cli.demo.job import run_demo
from holdfast.cli.demo.printing import print_report
from holdfast.cli.demo.progress import Output, Phases
from holdfast.cli.demo.report import Report
from holdfast.settings import Settings, load_settings

SHIPPED_INPUT = Path(__file__).parent / "input"
SERVERS_MAX = 16


async def demo(
    *,
    input: Path | None = None,  # noqa: A002 - the option's name
    servers: Annotated[int, Parameter(validator=Number(gte=2, lte=SERVERS_MAX))] = 2,
    json: Path | None = None,
    keep: bool = False,
    kill: bool = False,
    conflicts: bool = False,
) -> int:
    """Replay recorded swarm scenarios across server processes, and compare with a replay in plain Python.

    Each step of a swarm is taken by another server than the one before. At the end a further server with cold
    caches reads every swarm. Each scenario is a run, which goes from server to server, and each step a run below it.
    The status is 0 if all equal the replay, 1 if one differs or acknowledged work was lost, 2 if a server failed or
    the demo could not run.

    Args:
        input: Directory with scenarios, routines, agents and teams; else the small ones that are shipped.
        servers: Number of server processes, 2 to 16.
        json: File to write the report to, beside printing it.
        keep: Leave embedded servers running that this demo started.
        kill: Start one server more, and kill one with -9 in the middle of a step; its runs are resumed on others.
        conflicts: Play another scenario: runs that contradict each other, merged by each strategy, with one review.
    """
    console = Output()
    if json is not None and not json.parent.is_dir():
        raise InputError(f"--json {json}: {json.parent} is not a directory")
    settings = load_settings(environment=os.environ)
    if conflicts:
        return await _conflicts(settings, console, json, keep=keep, other=kill or input is not None)
    root = input or SHIPPED_INPUT
    corpus = load_corpus(root)
    async with backing_servers(settings, keep=keep, say=lambda line: _say(console, line)) as named:
        report = await run_demo(corpus, named, root=root, count=servers, phases=Phases(console), kill=kill)
    print_report(report, console)
    if json is not None:
        _write(json, report)
    return 0 if report.passed else 1


async def _conflicts(settings: Settings, console: Output, json: Path | None, *, keep: bool, other: bool) -> int:
    if other:
        raise InputError("--conflicts is a scenario of its own: it takes neither --input nor --kill")
    async with backing_servers(settings, keep=keep, say=lambda line: _say(console, line)) as named:
        report = await run_inquiry(named, say=lambda line: _say(console, line))
    print_inquiry(report, console)
    if json is not None:
        _write(json, report)
    return 0 if report.passed else 1


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, report: Report | InquiryReport) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written: {error.strerror}") from error
