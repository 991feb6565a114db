"""Checked by mypy, never run: the types a user of documents sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_type

from holdfast.documents import BlackboardItem, Document, FrozenDict, Swarm, SwarmStats, decode, encode


class Plan(Document):
    """As in the README: no options, and frozen all the same."""

    title: str
    steps: tuple[str, ...] = ()


plan = Plan("Ship it", steps=("build",), extra=FrozenDict())
assert_type(plan.title, str)
assert_type(plan.steps, tuple[str, ...])
assert_type(encode(plan), bytes)
assert_type(decode(Plan, b"{}"), Plan)
assert_type(decode(Swarm, b"{}", what="swarm:s1"), Swarm)

plan.title = "other"  # type: ignore[misc]
Plan(steps=())  # type: ignore[call-arg]
Plan("Ship it", stesp=())  # type: ignore[call-arg]
Plan(3)  # type: ignore[arg-type]

swarm = Swarm(goal="g", blackboard=[BlackboardItem(id="b", value={"a": [1]})])
assert_type(swarm.blackboard, Sequence[BlackboardItem])
assert_type(swarm.subtask_leaders, Mapping[str, str])
assert_type(swarm.stats, SwarmStats)

swarm.goal = "other"  # type: ignore[misc]
swarm.stats.total_credits += 1  # type: ignore[misc]
swarm.blackboard.append(BlackboardItem(id="c"))  # type: ignore[attr-defined]
swarm.blackboard[0] = BlackboardItem(id="c")  # type: ignore[index]
swarm.subtask_leaders["a"] = "b"  # type: ignore[index]
Swarm("g")  # type: ignore[call-arg,arg-type]
Swarm(stats="x")  # type: ignore[arg-type]
