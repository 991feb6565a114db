"""Takes over what ended children have exported, in the order in which they were begun (rule W6).

A child that has not ended holds back those behind it, so what a run comes to does not depend on who was faster. Of each
child the variables, and that it was merged, are one change of the context: however often an owner dies on the way, the
next one goes on behind the last child that was kept.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from holdfast.documents import ContextVariable, Run, Sealed
from holdfast.entry import MISSING
from holdfast.errors import CorruptDocument, KeyMissing, SchemaTooNew, SealBroken, TierError
from holdfast.keys import Key
from holdfast.kinds import RUN
from holdfast.protocols import Reviewer, Row, Settled
from holdfast.protocols.runs import ENDED
from holdfast.run_context.conflicts import Resolution
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.merging import (
    Comparison,
    Conflict,
    Resolved,
    Strategies,
    compared,
    is_for_a_person,
    resolved,
    taken_over,
)
from holdfast.run_context.secrets import is_same_secret, key_ids

logger = logging.getLogger("holdfast")

PAGE: Final = 50
"""Children whose rows are read at a time: each may hold as much as a context."""


class MergedChild(NamedTuple):
    """A child whose exports its parent has taken over.

    Attributes:
        variables: names of those that it had exported.
        resolutions: what became of conflicts, and of variables that are left out, since their seals are broken.
    """

    id: str
    status: str
    variables: tuple[str, ...]
    resolutions: tuple[Resolution, ...]


class Merge(NamedTuple):
    """What `ActiveRun.merge_children` has done.

    Attributes:
        children: those that were merged, in order.
        waits_for: the child that holds back all behind it; None: all were merged.
        needs_review: it is a decision on its conflicts that is missing.
        fault: why a secret of it cannot be opened here, so far: its key is not known, or this version too old; why its
            row cannot be read; or why L3 could not be asked about it, when others were merged before. Without any of
            these it has not ended.
    """

    children: tuple[MergedChild, ...]
    waits_for: str | None = None
    needs_review: bool = False
    fault: str | None = None

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """What became of all conflicts."""
        return tuple(each for child in self.children for each in child.resolutions)


class ChildMerging:
    """Merges the children of one run into its context.

    Args:
        otherwise: what resolves conflicts of variables that declare nothing.
    """

    def __init__(self, ground: Ground, context: RunContext, strategies: Strategies, reviewer: Reviewer) -> None:
        self._ground = ground
        self._context = context
        self._strategies = strategies
        self._reviewer = reviewer

    async def merge_all(self, keep: Callable[[Merge], Awaitable[None]], *, wait: bool) -> Merge:
        """Merge all that can be, and keep it.

        Args:
            keep: stores the context, which has what was merged; without children: before a person is asked.
            wait: until conflicts that are for a person are decided.
        """
        children: list[MergedChild] = []
        while True:
            merge = await self.merge(keep)
            if merge.children:
                await keep(merge)
            children += merge.children
            if not (wait and merge.needs_review):
                return merge._replace(children=tuple(children))
            await self._reviewer.changed()

    async def merge(self, keep: Callable[[Merge], Awaitable[None]]) -> Merge:
        """Merge all that can be; the context then has it, and what of it is not stored yet is for `keep`."""
        children: list[MergedChild] = []
        async for name, row in self._unmerged():
            try:
                run: Run = self._ground.stored(Key(RUN.name, name), row)
                if run.status not in ENDED:
                    return Merge(tuple(children), name)
                merged = await self._merged(name, run, row.birth, keep)
            except (
                KeyMissing,
                SealBroken,
                CorruptDocument,
                SchemaTooNew,
            ) as fault:  # that may come right, so nothing of the child is given up
                logger.warning("run %s waits to merge %s: %s", self._context.run_id, name, fault)
                return Merge(tuple(children), name, fault=str(fault))
            except TierError as fault:
                if not children:
                    raise
                logger.warning("run %s merges %s later: %s", self._context.run_id, name, fault)
                return Merge(tuple(children), name, fault=str(fault))  # those before it are told of now or never
            if merged is None:
                return Merge(tuple(children), name, needs_review=True)
            children.append(merged)
        return Merge(tuple(children))

    async def _unmerged(self) -> AsyncIterator[tuple[str, Row]]:
        """Children that are not merged yet, with their rows, in order of their births."""
        after = self._context.merged
        while rows := await self._ground.index.children(self._context.run_id, after=after, limit=PAGE):
            for name, row in rows:
                yield name, row
            after = rows[-1][1].birth

    async def _merged(
        self, name: str, run: Run, birth: int, keep: Callable[[Merge], Awaitable[None]]
    ) -> MergedChild | None:
        """Merge a child that has ended; None: somebody must decide first."""
        await self._ground.keys.know(key_ids(run.exported.values()))
        while True:
            found = self._compared(name, run)
            if any(map(is_for_a_person, found.conflicts)):
                # A decision is on writes that are kept: one that is lost with this server, and made again, is another.
                await keep(Merge(()))
            settled = await self._settled(name, found)
            if settled is None:
                return None
            # The run's code goes on beside this: what it wrote while a decision was asked for makes another conflict.
            if not _differs(found, self._compared(name, run)):
                break
        resolutions = self._take(name, birth, found, settled)
        return MergedChild(name, run.status, tuple(run.exported), resolutions)

    def _compared(self, name: str, run: Run) -> Comparison:
        """What a child has exported against what is here now; of secrets that are the same, both agree."""
        run_id, held, keys = self._context.run_id, self._context.variables, self._ground.keys.known
        exported = {
            key: child
            for key, child in run.exported.items()
            if key not in held or not is_same_secret(held[key], run_id, child, name, keys)
        }
        return compared(exported, held, self._strategies)

    async def _settled(self, name: str, found: Comparison) -> Mapping[str, Settled] | None:
        """The decisions on conflicts that are for a person; all of them are asked for, even if one is missing."""
        settled = {}
        for conflict in filter(is_for_a_person, found.conflicts):
            told = await self._reviewer.settle(self._context.run_id, name, conflict.parent, conflict.child)
            if told is not None:
                settled[conflict.key] = told
                await self._ground.keys.know(key_ids([] if told.variable is None else [told.variable]))
        return settled if len(settled) == sum(map(is_for_a_person, found.conflicts)) else None

    def _take(self, name: str, birth: int, found: Comparison, settled: Mapping[str, Settled]) -> tuple[Resolution, ...]:
        """Write what stands, and that the child is merged, in one go."""
        decided = [(each, self._resolved(each, settled)) for each in found.conflicts]
        standing: dict[str, ContextVariable | None] = dict(found.unopposed)
        standing.update((each.key, made.variable) for each, made in decided if made.variable is not each.parent)
        before = self._context.variables
        variables, left_out = self._adopted(name, standing)
        gone = [key for key, variable in standing.items() if variable is None and key in before]
        self._context.merge(birth, variables, gone)
        return tuple(({each.key: made.resolution for each, made in decided} | left_out).values())

    def _adopted(
        self, name: str, standing: Mapping[str, ContextVariable | None]
    ) -> tuple[dict[str, ContextVariable], dict[str, Resolution]]:
        """The variables that stand, as this run has them, without those whose seals are broken: no time mends that."""
        adopted, left_out, before = dict[str, ContextVariable](), dict[str, Resolution](), self._context.variables
        for key, variable in standing.items():
            if variable is None:
                continue
            try:
                own = self._context.adopt(variable, name)
            except SealBroken as fault:
                if type(variable.value) is Sealed and not variable.value.is_known:  # a later version opens it
                    raise
                left_out[key] = self._left_out(name, key, fault)
            else:
                adopted[key] = taken_over(own, before.get(key))
        return adopted, left_out

    def _left_out(self, name: str, key: str, fault: SealBroken) -> Resolution:
        logger.error("run %s leaves out what %s exported as %s: %s", self._context.run_id, name, key, fault)
        held = self._context.variables.get(key)
        value = MISSING if held is None else held.value
        return Resolution(value, self._strategies.of(key), f"it is left out: {fault}", variable_name=key)

    def _resolved(self, conflict: Conflict, settled: Mapping[str, Settled]) -> Resolved:
        if (decision := settled.get(conflict.key)) is not None:
            value = MISSING if decision.variable is None else decision.variable.value
            told = Resolution(value, conflict.strategy, decision.reason, variable_name=conflict.key)
            return Resolved(decision.variable, told)
        made = resolved(conflict, self._ground.hybrid, self._ground.skew_ms_max)
        if made.resolution.skewed:
            logger.warning(
                "run %s: %s was resolved by clocks, one of which is over %d ms ahead of this server's",
                self._context.run_id,
                conflict.key,
                self._ground.skew_ms_max,
            )
        return made


def _differs(one: Comparison, other: Comparison) -> bool:
    """Whether the parent's side of a comparison has changed."""
    return one.unopposed.keys() != other.unopposed.keys() or [
        (each.key, each.parent, each.strategy) for each in one.conflicts
    ] != [(each.key, each.parent, each.strategy) for each in other.conflicts]
