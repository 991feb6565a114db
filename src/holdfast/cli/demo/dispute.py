"""The scenario of `holdfast demo --conflicts`: an inquiry, and what two halls and the inquiry itself say (pure)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from holdfast.run_context.conflicts import ConflictStrategy


class Disputed(NamedTuple):
    """A variable that the inquiry and both halls change.

    Attributes:
        begun_with: what both halls inherit.
        inquiry: what the inquiry writes meanwhile.
        halls: what each hall exports, in the order in which they were begun; the second writes before the first.
        stands: what it must be in the end.
    """

    name: str
    strategy: ConflictStrategy
    begun_with: Any
    inquiry: Any
    halls: tuple[Any, Any]
    stands: Any


DISPUTED: Final = (
    Disputed("site", ConflictStrategy.PARENT_WINS, "north", "north-east", ("hall 1", "hall 2"), "north-east"),
    Disputed("verdict", ConflictStrategy.CHILD_WINS, "unclear", "a leak", ("the pump", "a valve"), "a valve"),
    Disputed(
        "findings",
        ConflictStrategy.MERGE_OBJECTS,
        {"valves": 3},
        {"valves": 3, "pumps": 1},
        ({"valves": 3, "hall 1": "dry"}, {"valves": 3, "hall 2": "wet"}),
        {"valves": 3, "pumps": 1, "hall 1": "dry", "hall 2": "wet"},
    ),
    Disputed("risk", ConflictStrategy.KEEP_LATEST, 1, 2, (4, 3), 4),
    Disputed("culprit", ConflictStrategy.MANUAL_REVIEW, "nobody", "the night shift", ("valve 2", "valve 2"), "valve 2"),
)
"""One for each strategy. In the last both halls agree, so a person is asked once."""

BADGE: Final = "badge"
BADGE_VALUE: Final = "badge 4711 of the night shift"
"""A secret of the second hall: its parent may have it, the blackboard of the swarm may not."""
SUMMARY: Final = "summary"
SUMMARY_VALUE: Final = "three valves, one pump"
ENGINEER: Final = "the plant's engineer"
