"""What is missing until nodes are one cluster, from what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from holdfast.embedded.redis_config import Ports
from holdfast.embedded.topology import SLOTS, Member, Step, View, is_settled, missing_steps, parse_view

A, B, C, D = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)
PORTS = {name: Ports(20_000 + place, 21_000 + place) for place, name in enumerate((A, B, C, D))}
THIRDS = {
    A: frozenset(range(5461)),
    B: frozenset(range(5461, 10_922)),
    C: frozenset(range(10_922, SLOTS)),
    D: frozenset[int](),
}

SAMPLE = f"""\
{A} 127.0.0.1:20000@21000,,tls-port=0 myself,master - 0 0 1 connected 0-5459 5461 [5460->-{B}]
{B} 127.0.0.1:20001@21001 slave,fail? {A} 0 1 1 disconnected
{C} :0@0 master,noaddr - 0 1 3 disconnected 10922-16383
"""


def member(name: str, **changes: object) -> Member:
    """A sound primary with its third of the slots."""
    values = {
        "id": name,
        "ports": PORTS[name],
        "flags": frozenset({"master"}),
        "primary": None,
        "linked": True,
        "slots": THIRDS[name],
    }
    return Member(**(values | changes))  # type: ignore[arg-type]


def views(names: Sequence[str], members: Mapping[str, Member] | None = None) -> list[View]:
    """Each node knows all of them, except that `members` are known as given."""
    known = {name: member(name) for name in names} | dict(members or {})
    return [View(name, known) for name in names]


def ports(names: Sequence[str]) -> list[Ports]:
    return [PORTS[name] for name in names]


def test_view_is_read_from_the_text_of_cluster_nodes() -> None:
    """Addresses, flags, roles and slots are read; a slot on the move and an unknown address are not."""
    view = parse_view(SAMPLE)
    assert view.id == A
    slots = frozenset([*range(5460), 5461])
    assert view.members[A] == member(A, flags=frozenset({"myself", "master"}), slots=slots)
    assert (view.members[B].primary, view.members[B].linked, view.members[B].slots) == (A, False, frozenset())
    assert view.members[C].ports is None


def test_complete_cluster_misses_nothing() -> None:
    """Three primaries that know each other and own all slots need no step, and are settled."""
    complete = views((A, B, C))
    assert missing_steps(complete, ports((A, B, C))) == []
    assert is_settled(complete)


def test_new_nodes_get_slots_and_meet() -> None:
    """Nodes that know only themselves are given a third of the slots each, and meet every other."""
    names = (A, B, C)
    alone = [View(name, {name: member(name, slots=frozenset())}) for name in names]
    steps = missing_steps(alone, ports(names))
    assert [step for step in steps if step.command[0] == "ADDSLOTSRANGE"] == [
        Step(0, ("ADDSLOTSRANGE", 0, 5460)),
        Step(1, ("ADDSLOTSRANGE", 5461, 10_921)),
        Step(2, ("ADDSLOTSRANGE", 10_922, 16_383)),
    ]
    meetings = {(step.node, step.command[2]) for step in steps if step.command[0] == "MEET"}
    assert meetings == {(0, 20_001), (0, 20_002), (1, 20_000), (1, 20_002), (2, 20_000), (2, 20_001)}
    assert not is_settled(alone)


def test_only_slots_without_owner_are_given() -> None:
    """Slots that were assigned before a start was cut short stay where they are."""
    partly = views((A, B, C), {B: member(B, slots=frozenset([5461, *range(5470, 10_922)]))})
    assert missing_steps(partly, ports((A, B, C))) == [Step(1, ("ADDSLOTSRANGE", 5462, 5469))]


def test_node_that_moved_is_met_at_its_new_address() -> None:
    """Whoever knows a node under an address it has left meets it again, and nobody else does."""
    moved = Ports(25_000, 26_000)
    known = views((A, B, C))
    known[1] = View(B, {**known[1].members, B: member(B, ports=moved)})
    steps = missing_steps(known, [PORTS[A], moved, PORTS[C]])
    assert steps == [Step(0, ("MEET", "127.0.0.1", *moved)), Step(2, ("MEET", "127.0.0.1", *moved))]


def test_node_that_is_no_more_is_forgotten() -> None:
    """A member whose folder is gone is forgotten by all, and its slots stay until they have."""
    gone = member(D, slots=THIRDS[B], flags=frozenset({"master", "fail"}))
    known = views((A, B, C), {B: member(B, slots=frozenset()), D: gone})
    assert missing_steps(known, ports((A, B, C))) == [Step(node, ("FORGET", D)) for node in range(3)]


def test_primary_that_is_no_more_stays_known_while_its_replica_may_take_over() -> None:
    """A vote needs the failed primary to be known, so it is forgotten only when nobody follows it."""
    gone = member(D, slots=THIRDS[B], flags=frozenset({"master", "fail"}))
    replica = member(B, slots=frozenset(), primary=D)
    assert missing_steps(views((A, B, C), {B: replica, D: gone}), ports((A, B, C))) == []


def test_idle_node_follows_a_primary_that_has_no_replica() -> None:
    """A node without slots becomes the replica of an owner that nobody follows, once all know each other."""
    names = (A, B, C, D)
    assert missing_steps(views(names), ports(names)) == [Step(3, ("REPLICATE", A))]
    following = {D: member(D, primary=B)}
    assert missing_steps(views(names, following), ports(names)) == []
    unknown = views(names)
    unknown[3] = View(D, {D: member(D)})
    assert not [step for step in missing_steps(unknown, ports(names)) if step.command[0] == "REPLICATE"]


@pytest.mark.parametrize("flag", ["handshake", "noaddr", "fail", "fail?"])
def test_cluster_with_a_doubtful_member_is_not_settled(flag: str) -> None:
    """A member that is failing, or not fully known, means there is something to wait for."""
    assert not is_settled(views((A, B, C), {C: member(C, flags=frozenset({"master", flag}))}))
    assert not is_settled(views((A, B, C), {C: member(C, linked=False)}))
