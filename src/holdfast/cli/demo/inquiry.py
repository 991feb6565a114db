"""An inquiry whose parts contradict each other: two runs below one, on two servers, merged by each strategy."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from holdfast import ActiveRun, Consistency, Event, Swarm
from holdfast.cli.demo.dispute import BADGE, BADGE_VALUE, DISPUTED, ENGINEER, SUMMARY, SUMMARY_VALUE
from holdfast.documents import DataSensitivity, ExportDestination, FreeValue, encode
from holdfast.node import OpenStore, connect
from holdfast.reviews.reviews import OPENED
from holdfast.run_context.child_merging import Merge
from holdfast.settings import Settings

ASKED_SECONDS_MAX: Final = 30.0


class Outcome(msgspec.Struct, frozen=True):
    """What became of one variable.

    Attributes:
        reasons: of each conflict about it, in order.
        expected: what it must be.
    """

    name: str
    strategy: str
    inquiry: FreeValue
    halls: tuple[FreeValue, FreeValue]
    stands: FreeValue
    expected: FreeValue
    reasons: list[str]


class InquiryReport(msgspec.Struct, frozen=True):
    """What the scenario came to.

    Attributes:
        review: the id of the one review, `resolved_by` whom, on the other server, and `waited_seconds`: how long the
            merge waited for it.
        blackboard: keys of what reached the swarm's blackboard.
        refused: exports that were refused, as "key to destination".
        secret_opened: the inquiry reads the secret that a hall exported to it.
        secret_rows: rows of runs in which the plain secret was found; 0.
    """

    outcomes: list[Outcome]
    review: str
    resolved_by: str
    waited_seconds: float
    blackboard: list[str]
    refused: list[str]
    secret_opened: bool
    secret_rows: int

    @property
    def passed(self) -> bool:
        """Everything came out as it must."""
        return (
            all(each.stands == each.expected for each in self.outcomes)
            and self.resolved_by == ENGINEER
            and self.blackboard == [SUMMARY]
            and self.refused == [f"{BADGE} to {ExportDestination.BLACKBOARD.value}"]
            and self.secret_opened
            and self.secret_rows == 0
        )


async def run_inquiry(settings: Settings, *, say: Callable[[str], None]) -> InquiryReport:
    """Play the scenario on two servers of this process.

    Args:
        settings: both servers named, and a master key.
    """
    async with connect(settings) as here, connect(settings) as there:
        return await _Inquiry(here, there, say).play()


class _Inquiry:
    def __init__(self, here: OpenStore, there: OpenStore, say: Callable[[str], None]) -> None:
        self._here = here
        self._there = there
        self._say = say
        self._asked = asyncio.Event()
        self._swarm = f"demo-inquiry-{uuid.uuid4().hex[:8]}"

    async def play(self) -> InquiryReport:
        await self._here.swarms.put(self._swarm, Swarm(goal="find the leak"))
        inquiry = await self._begun()
        halls = [await self._here.runs.begin("hall", {"hall": number}, parent=inquiry) for number in (1, 2)]
        halls[1] = await self._moved(halls[1])
        self._say(f"{inquiry.id}: two runs below it, one of them on another server")
        for each in DISPUTED:
            inquiry.context[each.name] = each.inquiry
        await self._end(halls[1], 1)
        await self._end(halls[0], 0)
        self._there.subscribe(OPENED, self._ask)
        begun = asyncio.get_running_loop().time()
        merging = asyncio.create_task(inquiry.merge_children(wait=True))
        review = await self._resolved(inquiry)
        merge = await merging
        waited = asyncio.get_running_loop().time() - begun
        report = await self._report(inquiry, halls, merge, review, waited)
        await inquiry.complete()
        return report

    async def _begun(self) -> ActiveRun:
        inquiry = await self._here.runs.begin("inquiry", swarm_id=self._swarm, run_id=f"{self._swarm}-run")
        for each in DISPUTED:
            inquiry.context[each.name] = each.begun_with
            inquiry.context.declare_strategy(each.name, each.strategy)
        return inquiry

    async def _moved(self, run: ActiveRun) -> ActiveRun:
        """Have another server go on with a run."""
        await run.release()
        return await self._there.runs.resume(run.id)

    async def _end(self, run: ActiveRun, number: int) -> None:
        async with run.step("look"):
            for each in DISPUTED:
                run.context[each.name] = each.halls[number]
                run.context.mark_for_export(each.name, ExportDestination.PARENT_CONTEXT)
        if number == 0:
            run.context[SUMMARY] = SUMMARY_VALUE
            run.context.mark_for_export(SUMMARY, ExportDestination.BLACKBOARD)
        else:
            run.context.set(BADGE, BADGE_VALUE, sensitivity=DataSensitivity.SECRET)
            run.context.mark_for_export(BADGE, ExportDestination.PARENT_CONTEXT)
            run.context.mark_for_export(BADGE, ExportDestination.BLACKBOARD)
        await run.complete()

    async def _ask(self, _: Event) -> None:
        self._asked.set()

    async def _resolved(self, inquiry: ActiveRun) -> str:
        """Wait until the merge asks a person, and answer on the other server."""
        async with asyncio.timeout(ASKED_SECONDS_MAX):
            await self._asked.wait()
        (review,) = await self._there.reviews.list(run_id=inquiry.id)
        self._say(f"review {review.id}: opened, and resolved on the other server")
        await self._there.reviews.resolve(review.id, choice="child", by=ENGINEER, reason="I have seen it")
        return review.id

    async def _report(
        self, inquiry: ActiveRun, halls: list[ActiveRun], merge: Merge, review_id: str, waited: float
    ) -> InquiryReport:
        review = await self._here.reviews.get(review_id)
        swarm = await self._here.swarms.get(self._swarm, consistency=Consistency.STRONG)
        rows = [await self._here.runs.row(each.id, consistency=Consistency.STRONG) for each in (inquiry, *halls)]
        prefix = f"{halls[0].id}/"
        return InquiryReport(
            outcomes=[self._outcome(inquiry, merge, each) for each in DISPUTED],
            review=review_id,
            resolved_by="" if review is None else str(review.resolved_by),
            waited_seconds=waited,
            blackboard=[] if swarm is None else [each.id.removeprefix(prefix) for each in swarm.blackboard],
            refused=[
                f"{each.key} to {each.destination}" for row in rows if row is not None for each in row.refused_exports
            ],
            secret_opened=inquiry.context.get(BADGE) == BADGE_VALUE,
            secret_rows=sum(BADGE_VALUE.encode() in encode(row) for row in rows if row is not None),
        )

    def _outcome(self, inquiry: ActiveRun, merge: Merge, disputed: Any) -> Outcome:
        return Outcome(
            name=disputed.name,
            strategy=disputed.strategy.value,
            inquiry=disputed.inquiry,
            halls=disputed.halls,
            stands=inquiry.context[disputed.name],
            expected=disputed.stands,
            reasons=[each.reason for each in merge.resolutions if each.variable_name == disputed.name],
        )
