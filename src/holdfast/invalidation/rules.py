"""The invalidation rules: which change makes what else void (pure; the seed's "Invalidation Patterns").

A document that changed is always dropped itself, wherever it is cached: the change feed sees to that. A rule says what
depends on it and goes with it, for whoever keeps what was derived from both: a team's bots and swarms, a bot's swarms,
a routine's runs. Dependents are found by tag, whatever their number, or named by the document itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from holdfast.documents import Document, Team
from holdfast.errors import SettingsError
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Target

TARGETS_MAX: Final = 100
"""Of one kind at once; beyond, the whole kind goes: one number in place of a hundred."""


class Impact(enum.StrEnum):
    """What an answer that is too old would do: the seed's impact analysis."""

    LOW = "low"
    """Something is shown that was renamed."""
    MEDIUM = "medium"
    """Somebody works towards what is no goal any more."""
    HIGH = "high"
    """A limit, a permission or a step is not kept to."""


class Dependents(msgspec.Struct, frozen=True):
    """What goes with a document.

    Attributes:
        kind: of what goes.
        tagged: it bears the document's tag, ``<kind>:<id>``.
        named: gives the ids that the document names; may be called with any version of it.
    """

    kind: str
    tagged: bool = True
    named: Callable[[Any], Iterable[str]] | None = None


class Rule(msgspec.Struct, frozen=True):
    """What else goes when certain attributes of a document change.

    Attributes:
        trigger: what happened, for people: the reason of the invalidation.
        kind: of the document.
        attributes: of the document, any of which triggers it.
        impact: of an answer that is too old.
        dependents: the scope beyond the document itself; none: it goes alone.
    """

    trigger: str
    kind: str
    attributes: tuple[str, ...]
    impact: Impact
    dependents: tuple[Dependents, ...] = ()


def _members(team: Team) -> list[str]:
    return [member.id for member in team.members]


_SWARMS: Final = Dependents("swarm")
_RUNS: Final = Dependents("run_snapshot")
_MEMBERS: Final = Dependents("bot", tagged=False, named=_members)

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "user updates: bot settings",
        "bot",
        ("model", "max_tokens", "persona", "agent_spec", "capabilities", "resources"),
        Impact.HIGH,
        (_SWARMS,),
    ),
    Rule("user updates: team membership", "team", ("members",), Impact.MEDIUM, (_MEMBERS,)),
    Rule("user updates: preferences", "bot", ("name", "handle", "metadata", "extra"), Impact.LOW),
    Rule("team changes: member additions", "team", ("members",), Impact.MEDIUM, (_SWARMS,)),
    Rule("team changes: goal updates", "team", ("objectives", "description"), Impact.MEDIUM, (_SWARMS,)),
    Rule("team changes: structure", "team", ("structure",), Impact.HIGH, (_MEMBERS, _SWARMS)),
    Rule("swarm configuration: resource limits", "swarm", ("limits",), Impact.HIGH),
    Rule("swarm configuration: tool permissions", "swarm", ("available_tools", "policy", "scheduling"), Impact.HIGH),
    Rule("swarm configuration: performance settings", "swarm", ("preferred_model", "execution"), Impact.MEDIUM),
    Rule("routine changes: step modifications", "routine", ("steps", "inputs", "outputs"), Impact.HIGH, (_RUNS,)),
    Rule("routine changes: version updates", "routine", ("version",), Impact.MEDIUM, (_RUNS,)),
    Rule(
        "routine changes: strategy changes",
        "routine",
        ("default_strategy", "navigator_type", "config", "resource_requirements"),
        Impact.MEDIUM,
        (_RUNS,),
    ),
)
"""The seed's four boxes, box by box. Membership is kept in the team's document; both boxes that name it begin there."""


class Version(msgspec.Struct, frozen=True):
    """A change of a document, as far as both sides of it are known.

    Attributes:
        before, after: None: there was no such document.
        known: whether `before` is what was there; otherwise anything may have changed.
    """

    key: Key
    before: Document | None
    after: Document | None
    known: bool = True


def triggered(rules: Iterable[Rule], change: Version) -> list[Rule]:
    """The rules that a change triggers: those with an attribute that changed, or may have."""
    return [
        rule
        for rule in rules
        if rule.kind == change.key.kind and (_is_whole(change) or any(map(_differs(change), rule.attributes)))
    ]


def targets(rule: Rule, change: Version) -> list[Target]:
    """What goes when a change triggers a rule, beside the document itself."""
    found = []
    for each in rule.dependents:
        if each.tagged:
            found.append(Target(tag=str(change.key)))
        if each.named is not None:
            sides = [side for side in (change.before, change.after) if side is not None]
            found += [Target(each.kind, identifier) for side in sides for identifier in each.named(side)]
    return list(dict.fromkeys(found))


def planned(rules: Collection[Rule], changes: Iterable[Version]) -> dict[Target, str]:
    """What goes after several changes, each target with its reason: the triggers and the document."""
    reasons: dict[Target, str] = {}
    by_kind: dict[str, set[Target]] = {}
    for change in changes:
        for rule in triggered(rules, change):
            for target in targets(rule, change):
                reasons.setdefault(target, f"{rule.trigger} of {change.key}")
                for each in rule.dependents:
                    by_kind.setdefault(each.kind, set()).add(target)
    for kind, found in by_kind.items():
        if len(found) > TARGETS_MAX:
            reasons = {target: reason for target, reason in reasons.items() if target not in found}
            reasons[Target(kind)] = f"{len(found)} changes of what it depends on"
    return reasons


def whole_kinds(rules: Iterable[Rule], kind: str) -> dict[Target, str]:
    """What goes when any number of a kind's documents changed."""
    return {
        Target(each.kind): f"{rule.trigger}, of any number"
        for rule in rules
        if rule.kind == kind
        for each in rule.dependents
    }


def check(rules: Iterable[Rule], kinds: Mapping[str, Kind[Any]]) -> tuple[Rule, ...]:
    """Rules that can work with these kinds.

    Raises:
        SettingsError: a kind that is not known, an attribute that its documents do not have, or a dependent kind
            without tags.
    """
    found = tuple(rules)
    for rule in found:
        if not isinstance(rule, Rule):
            raise SettingsError(f"rules takes rules, not {type(rule).__name__}")
        for name in (rule.kind, *(each.kind for each in rule.dependents)):
            if name not in kinds:
                raise SettingsError(f"rule {rule.trigger!r}: kind {name} is not known; known are {', '.join(kinds)}")
        own = kinds[rule.kind].document.__struct_fields__
        if unknown := [each for each in rule.attributes if each not in own]:
            raise SettingsError(f"rule {rule.trigger!r}: documents of kind {rule.kind} have no {', '.join(unknown)}")
        for each in rule.dependents:
            if each.tagged and kinds[each.kind].tags is None:
                raise SettingsError(f"rule {rule.trigger!r}: kind {each.kind} has no tags to find its documents by")
    return found


def _is_whole(change: Version) -> bool:
    return not change.known or change.before is None or change.after is None


def _differs(change: Version) -> Callable[[str], bool]:
    return lambda name: bool(getattr(change.before, name) != getattr(change.after, name))
