"""The invalidation rules: which change makes what else void (pure; the seed's "Invalidation Patterns").

A document that changed is always dropped itself, wherever it is cached: the change feed sees to that. A rule says what
depends on it and goes with it, for whoever keeps what was derived from both: a team's bots and swarms, a bot's swarms,
a routine's runs. Dependents are found by tag, whatever their number, or named by the document itself.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from holdfast.documents import Document, Team
from holdfast.errors import InvalidKey, SettingsError
from holdfast.keys import Key, check_id
from holdfast.kinds import Kind
from holdfast.protocols import Target

TARGETS_MAX: Final = 100
"""Of one kind at once; beyond, the whole kind goes: one number in place of a hundred."""


TRIGGER_MAX: Final = 400
"""Characters; with a key it must fit the record of an invalidation."""


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
        named: gives the ids that the document names; may be called with any version of it. What can be no id is passed
            over; if it raises, the whole kind goes.
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


def targets(dependents: Dependents, change: Version) -> list[Target]:
    """What of one kind goes with a document that changed."""
    found = [Target(tag=str(change.key))] if dependents.tagged else []
    if dependents.named is not None:
        sides = [side for side in (change.before, change.after) if side is not None]
        try:
            named = [identifier for side in sides for identifier in dependents.named(side)]
        except Exception:  # noqa: BLE001 - a user's function; what it would have named nobody knows
            return [Target(dependents.kind)]
        found += [Target(dependents.kind, identifier) for identifier in named if _is_id(identifier)]
    return list(dict.fromkeys(found))


def planned(rules: Iterable[Rule], changes: Iterable[Version]) -> dict[Target, str]:
    """What goes after several changes, each target with its reason: the first trigger, and the document."""
    reasons: dict[Target, str] = {}
    wanted: dict[Target, set[str]] = {}  # the kinds of which a target is to drop something
    for change in changes:
        for rule in triggered(rules, change):
            for each in rule.dependents:
                for target in targets(each, change):
                    reasons.setdefault(target, f"{rule.trigger} of {change.key}")
                    wanted.setdefault(target, set()).add(each.kind)
    counts = Counter(kind for kinds in wanted.values() for kind in kinds)
    whole = {kind for kind, count in counts.items() if count > TARGETS_MAX}
    plan = {target: reason for target, reason in reasons.items() if not wanted[target] <= whole}
    return plan | {Target(kind): f"{counts[kind]} changes of what it depends on" for kind in sorted(whole)}


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
        SettingsError: what is no rule, a kind that is not known, an attribute that its documents do not have, or a
            dependent kind without tags.
    """
    if isinstance(rules, Rule) or not isinstance(rules, Iterable):
        raise SettingsError("rules takes several rules: rules=(*RULES, ...), or () for none")
    found = tuple(rules)
    for rule in found:
        if not isinstance(rule, Rule):
            raise SettingsError(f"rules takes rules, not {type(rule).__name__}")
        if fault := _fault(rule, kinds):
            raise SettingsError(f"rule {rule.trigger!r:.60}: {fault}")
    return found


def _fault(rule: Rule, kinds: Mapping[str, Kind[Any]]) -> str | None:
    """Why a rule cannot work."""
    if not isinstance(rule.trigger, str) or not 0 < len(rule.trigger) <= TRIGGER_MAX:
        return f"its trigger is a text of 1 to {TRIGGER_MAX} characters"
    if not isinstance(rule.dependents, tuple) or not all(map(_is_usable, rule.dependents)):
        return "dependents is a tuple of Dependents, each tagged or with a function `named`"
    for name in (rule.kind, *(each.kind for each in rule.dependents)):
        if name not in kinds:
            return f"kind {name} is not known; known are {', '.join(kinds)}"
    own = kinds[rule.kind].document.__struct_fields__
    if unknown := [each for each in rule.attributes if each not in own]:
        return f"documents of kind {rule.kind} have no {', '.join(unknown)}"
    for each in rule.dependents:
        if each.tagged and kinds[each.kind].tags is None:
            return f"kind {each.kind} has no tags to find its documents by"
    return None


def _is_usable(dependents: object) -> bool:
    return isinstance(dependents, Dependents) and (
        callable(dependents.named) if dependents.named is not None else dependents.tagged
    )


def _is_id(identifier: object) -> bool:
    """Whether a document can have it: what a document names is free text."""
    try:
        check_id(identifier)
    except InvalidKey:
        return False
    return True


def _is_whole(change: Version) -> bool:
    return not change.known or change.before is None or change.after is None


def _differs(change: Version) -> Callable[[str], bool]:
    return lambda name: bool(getattr(change.before, name) != getattr(change.after, name))
