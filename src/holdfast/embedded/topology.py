"""What is missing until the nodes are one Redis Cluster, computed from what they say of each other.

The same steps form a new cluster, bring back nodes that were killed or moved to other ports, and add
replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.embedded.layout import PRIMARIES
from holdfast.embedded.redis_config import ADDRESS, Ports

SLOTS = 16_384

_UNSETTLED = frozenset({"handshake", "noaddr", "fail", "fail?"})


@dataclass(frozen=True, slots=True)
class Member:
    """One line of CLUSTER NODES.

    Attributes:
        ports: None when the address is not known.
        primary: the id of the node it is a replica of.
        linked: whether the node that was asked has a connection to it.
    """

    id: str
    ports: Ports | None
    flags: frozenset[str]
    primary: str | None
    linked: bool
    slots: frozenset[int]


class View(NamedTuple):
    """What one of our nodes says: its own id, and the members it knows."""

    id: str
    members: Mapping[str, Member]


class Step(NamedTuple):
    """A CLUSTER command for the node at this place among ours."""

    node: int
    command: tuple[str | int, ...]


def parse_view(text: str) -> View:
    """Read the answer of CLUSTER NODES."""
    members = [_parse_member(line.split()) for line in text.splitlines() if line.strip()]
    myself = next(member.id for member in members if "myself" in member.flags)
    return View(myself, {member.id: member for member in members})


def missing_steps(views: Sequence[View], ports: Sequence[Ports]) -> list[Step]:
    """What has to be said to which node so that they become one cluster; empty when nothing has.

    Args:
        views: of each of our nodes, primaries first.
        ports: of each of our nodes.
    """
    first = [*_forget(views), *_give_slots(views), *_meet(views, ports)]
    # Replicas only once every node knows every other: a primary that is not known yet cannot be followed.
    return first or list(_replicate(views))


def is_settled(views: Sequence[View]) -> bool:
    """Whether every node knows exactly our nodes and has a sound link to each."""
    ids = {view.id for view in views}
    return all(
        set(view.members) == ids
        and all(member.linked and not member.flags & _UNSETTLED for member in view.members.values())
        for view in views
    )


def _parse_member(words: Sequence[str]) -> Member:
    client, _, bus = words[1].split(",")[0].rpartition(":")[2].partition("@")
    ports = Ports(int(client), int(bus)) if int(client) else None
    flags = frozenset(words[2].split(","))
    spans = [word.split("-") for word in words[8:] if not word.startswith("[")]  # [ marks a slot on the move
    slots = frozenset(slot for span in spans for slot in range(int(span[0]), int(span[-1]) + 1))
    primary = None if words[3] == "-" else words[3]
    return Member(words[0], ports, flags, primary, "myself" in flags or words[7] == "connected", slots)


def _forget(views: Sequence[View]) -> Iterator[Step]:
    """Members that are none of ours, since their folder was deleted; not while a replica can take over."""
    ours = {view.id for view in views}
    followed = {member.primary for view in views for member in view.members.values() if member.id in ours}
    for index, view in enumerate(views):
        for member in view.members.values():
            if member.id not in ours | followed and "handshake" not in member.flags:
                yield Step(index, ("FORGET", member.id))


def _give_slots(views: Sequence[View]) -> Iterator[Step]:
    """Slots that no node knows an owner of: an equal part to each primary."""
    owned = frozenset[int]().union(*(member.slots for view in views for member in view.members.values()))
    roles = [view.members[view.id].primary is None for view in views]
    for index in range(PRIMARIES):
        part = range(SLOTS * index // PRIMARIES, SLOTS * (index + 1) // PRIMARIES)
        missing = [slot for slot in part if slot not in owned]
        if missing:
            taker = index if roles[index] else roles.index(True)
            yield Step(taker, ("ADDSLOTSRANGE", *_spans(missing)))


def _spans(slots: Sequence[int]) -> Iterator[int]:
    """First and last of each unbroken run."""
    for position, slot in enumerate(slots):
        if position == 0 or slots[position - 1] != slot - 1:
            yield slot
        if position == len(slots) - 1 or slots[position + 1] != slot + 1:
            yield slot


def _meet(views: Sequence[View], ports: Sequence[Ports]) -> Iterator[Step]:
    """Nodes that do not know another, or know it under an address it has left."""
    for index, view in enumerate(views):
        for other, address in zip(views, ports, strict=True):
            known = view.members.get(other.id)
            if known is None or known.ports != address:
                yield Step(index, ("MEET", ADDRESS, address.client, address.bus))


def _replicate(views: Sequence[View]) -> Iterator[Step]:
    """Nodes that own no slots, each to follow an owner that nobody follows."""
    own = [view.members[view.id] for view in views]
    followed = {member.primary for member in own}
    lone = [member.id for member in own if member.slots and member.id not in followed]
    idle = [index for index, member in enumerate(own) if not member.slots and member.primary is None]
    for index, primary in zip(idle, lone, strict=False):
        yield Step(index, ("REPLICATE", primary))
