"""Kinds: sorts of state, each with its document, its table and its caching policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from holdfast.documents import (
    Bot,
    Delivery,
    Document,
    Escalation,
    ExportedValue,
    Review,
    Routine,
    Run,
    RunContextSnapshot,
    Swarm,
    Team,
)
from holdfast.entry import Durability
from holdfast.errors import InvalidDocument, InvalidKey, SettingsError
from holdfast.keys import Key, check_kind_name
from holdfast.recovery.strategies import StateRecoveryStrategy, check_of_kind
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.spilling import SNAPSHOT_KIND, Spilled, spill_run
from holdfast.tags import EVERY_TAG, checked_tags, export_tags, in_cache, run_tags, snapshot_tags, swarm_tags

D = TypeVar("D", bound=Document)

L2_TTL_SECONDS_MAX: Final = 45 * 86_400.0
"""The wire format counts a TTL in 32 bits of milliseconds."""

STALENESS_BOUND_SECONDS_MIN: Final = 0.05
"""Below, the polls that keep the lease would follow each other without a pause."""

STALENESS_BOUND_SECONDS_MAX: Final = 60.0

SCHEMA_MAX: Final = 2**15 - 1
"""A schema is a smallint in L3."""

RESERVED_TABLES: Final = frozenset(
    {"generations", "incarnation", "invalidations", "kinds", "migrations", "tag_count", "tag_generations"}
    | {"dead_writes", "journal_beats", "journals"}  # of write-behind
    | {"data_keys", "master_keys"}  # of secrets
    | {"audit", "audit_head"}
)
RESERVED_BEGINNING: Final = "outbox"
RESERVED_END: Final = "_ids"
"""Of the tables that keep the ids of history."""
_NAMEABLE: Final = re.compile(r"[^\0\ud800-\udfff]+\Z")

TABLE_NAME_BYTES_MAX: Final = 50
"""PostgreSQL's 63, less what a monthly partition adds to the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a kind is cached.

    Attributes:
        cache: the L1 cache it shares (`swarm`, `run` or `config`); None gives the kind a cache of its own.
        l1_entries_max: size of its own L1 cache; not used with a shared one.
        l1_ttl_seconds: TTL of its own L1 cache, from insertion; not used with a shared one.
        l2_ttl_seconds: TTL in L2, from the read of L3; at least the lifetime of a fence (60 s).
        staleness_bound_seconds: a bounded read misses nothing that was committed longer before it; None: the setting
            `staleness_bound_seconds`.
        max_stale_seconds: while L3 is away, how old the last proof that a value is current may be for L1 to answer
            with it, labelled;
            0: such a read is an error. A call may say otherwise.
    """

    cache: str | None = None
    l1_entries_max: int = 1000
    l1_ttl_seconds: float = 5 * 60.0
    l2_ttl_seconds: float = 15 * 60.0
    staleness_bound_seconds: float | None = None
    max_stale_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Kind(Generic[D]):
    """A sort of state.

    Attributes:
        name: 1 to 40 of ``a-z 0-9 _``; it is part of keys and cannot change later.
        document: the class of its documents.
        table: its table in the schema `holdfast`; by default the name.
        append_only: documents are history: new ids only, monthly partitions.
        tags: the tags of a document, by which cached entries can be made void; a pure function. An entry of more than
            32 is void with any tag. Entries keep the tags they were filled with: after a change of this function, make
            the kind void once.
        configuration: its changes are also told as `config/changed`. Bots, teams and swarms are (a swarm's document
            holds its limits, tools and policy); routines have a topic of their own.
        durability: what a `patch` has survived when it returns, unless the call says otherwise.
        on_conflict: decides when a `Set` that was accepted comes to L3 and finds another value than it replaced. There
            the committed value is the parent's, the `Set`'s is the child's.
        owned_by: the epoch a document is owned under, raised by whoever takes it over; a pure function. A write that
            was made under another one is refused (rule S3), and the writes that a server has left in its journal can be
            decided for a key before somebody else takes it over.
        handed_over: the same can be decided of a kind whose documents nobody owns, as of swarms when one of their runs
            is taken over; with `owned_by` it goes without saying.
        spill: what of a document that is about to be stored becomes history in the same transaction; None: nothing. A
            pure function. What `put`, `update` and transactions store is not given to it.
        recovery: what is done about faults of its documents, where it is not what the server's table says: a row for
            `state_corruption`, `cache_failure` or `transaction_failed`, the types that can be of one kind.
    """

    name: str
    document: type[D]
    table: str = ""
    caching: Caching = Caching()
    append_only: bool = False
    tags: Callable[[D], Iterable[str]] | None = None
    configuration: bool = False
    durability: Durability = Durability.COMMITTED
    on_conflict: ConflictStrategy = ConflictStrategy.PARENT_WINS
    owned_by: Callable[[D], int] | None = None
    handed_over: bool = False
    spill: Callable[[Key, D], Spilled[D] | None] | None = None
    recovery: tuple[StateRecoveryStrategy, ...] = ()

    def __post_init__(self) -> None:
        """Check what would fail late.

        Raises:
            InvalidKey: the name.
            SettingsError: the document, the table or a limit, with what it takes.
        """
        check_kind_name(self.name)
        if not (isinstance(self.document, type) and issubclass(self.document, Document)):
            raise SettingsError(f"kind {self.name}: document must be a class derived from Document")
        if not (isinstance(self.document.SCHEMA, int) and 0 < self.document.SCHEMA <= SCHEMA_MAX):
            raise SettingsError(f"kind {self.name}: {self.document.__name__}.SCHEMA must be 1 to {SCHEMA_MAX}")
        if not (isinstance(self.table, str) and isinstance(self.caching, Caching)):
            raise SettingsError(f"kind {self.name}: table is text, and caching a Caching")
        if not (self.tags is None or callable(self.tags)):
            raise SettingsError(f"kind {self.name}: tags is a function of a document, or None")
        if not all(each is None or callable(each) for each in (self.owned_by, self.spill)):
            raise SettingsError(f"kind {self.name}: owned_by and spill are functions of a document, or None")
        self._check_recovery()
        object.__setattr__(self, "table", self.table or self.name)
        if not 0 < len(self.table.encode(errors="replace")) <= TABLE_NAME_BYTES_MAX or not _NAMEABLE.match(self.table):
            raise SettingsError(
                f"kind {self.name}: table names have 1 to {TABLE_NAME_BYTES_MAX} bytes of UTF-8, no NUL"
            )
        reserved = self.table.startswith(RESERVED_BEGINNING) or self.table.endswith(RESERVED_END)
        if reserved or self.table in RESERVED_TABLES:
            raise SettingsError(f"kind {self.name}: the table {self.table} is Holdfast's own")
        self._check_caching()

    def tags_of(self, key: Key, document: D) -> tuple[str, ...]:
        """The tags of a document that is about to be written; none if the kind declares none.

        Raises:
            InvalidDocument: naming the kind and the tag that is none. And whatever the function raises.
        """
        if self.tags is None:
            return ()
        try:
            return checked_tags(self.tags(document))
        except InvalidKey as fault:
            raise InvalidDocument("", f"{key}: tags of kind {self.name}: {fault}") from fault

    def cached_tags_of(self, key: Key, document: D) -> tuple[str, ...] | None:
        """The tags of an entry in a cache; None if the kind declares none. Never raises for the document's sake."""
        if self.tags is None:
            return None
        try:
            return in_cache(self.tags_of(key, document))
        except Exception:  # noqa: BLE001 - a user's function, on a document that another version may have written
            return (EVERY_TAG,)

    def _check_recovery(self) -> None:
        try:
            check_of_kind(self.recovery)
        except SettingsError as fault:
            raise SettingsError(f"kind {self.name}: {fault}") from fault

    def _check_caching(self) -> None:
        caching = self.caching
        if caching.l1_entries_max < 1 or not caching.l1_ttl_seconds > 0:
            raise SettingsError(f"kind {self.name}: l1_entries_max and l1_ttl_seconds must be positive")
        if not 0 < caching.l2_ttl_seconds <= L2_TTL_SECONDS_MAX:
            raise SettingsError(f"kind {self.name}: l2_ttl_seconds must be above 0 and at most {L2_TTL_SECONDS_MAX:g}")
        bound = caching.staleness_bound_seconds
        if bound is not None and not STALENESS_BOUND_SECONDS_MIN <= bound <= STALENESS_BOUND_SECONDS_MAX:
            raise SettingsError(
                f"kind {self.name}: staleness_bound_seconds must be {STALENESS_BOUND_SECONDS_MIN:g} to "
                f"{STALENESS_BOUND_SECONDS_MAX:g}"
            )
        if not caching.max_stale_seconds >= 0:
            raise SettingsError(f"kind {self.name}: max_stale_seconds must be 0 or more")


_CONFIG: Final = "config"
SWARM: Final = Kind(
    "swarm",
    Swarm,
    "Chat",
    Caching(cache="swarm", l2_ttl_seconds=15 * 60.0),
    tags=swarm_tags,
    configuration=True,
    durability=Durability.JOURNALED,
    handed_over=True,
)
BOT: Final = Kind("bot", Bot, "User", Caching(cache=_CONFIG, l2_ttl_seconds=30 * 60.0), configuration=True)
TEAM: Final = Kind("team", Team, "Teams", Caching(cache=_CONFIG, l2_ttl_seconds=30 * 60.0), configuration=True)
ROUTINE: Final = Kind("routine", Routine, "Routine", Caching(cache=_CONFIG, l2_ttl_seconds=60 * 60.0))
RUN_SNAPSHOT: Final = Kind(
    SNAPSHOT_KIND,
    RunContextSnapshot,
    "RunContextSnapshot",
    Caching(cache="run", l2_ttl_seconds=15 * 60.0),
    append_only=True,
    tags=snapshot_tags,
)
RUN: Final = Kind(
    "run",
    Run,
    "Run",
    Caching(cache="run", l2_ttl_seconds=15 * 60.0),
    tags=run_tags,
    durability=Durability.JOURNALED,
    owned_by=lambda run: run.epoch,
    spill=spill_run,
)
EXPORT: Final = Kind(
    "export", ExportedValue, "Export", Caching(cache="run", l2_ttl_seconds=15 * 60.0), tags=export_tags
)
DELIVERY: Final = Kind("delivery", Delivery, "Delivery", Caching(cache="run"))
REVIEW: Final = Kind("review", Review, "Review", Caching(cache="run", l2_ttl_seconds=15 * 60.0))
ESCALATION: Final = Kind("escalation", Escalation, "Escalation", Caching(cache="run", l2_ttl_seconds=15 * 60.0))
BUILT_IN: Final[tuple[Kind[Any], ...]] = (
    SWARM,
    BOT,
    TEAM,
    ROUTINE,
    RUN_SNAPSHOT,
    RUN,
    EXPORT,
    DELIVERY,
    REVIEW,
    ESCALATION,
)


def register(own: Iterable[Kind[Any]]) -> dict[str, Kind[Any]]:
    """The built-in kinds and the user's own, by name.

    Raises:
        SettingsError: two kinds have one name or one table.
    """
    if isinstance(own, Kind):
        raise SettingsError(f"kinds takes a list: kinds=[{own.name}]")
    kinds: dict[str, Kind[Any]] = {}
    tables: dict[str, str] = {}
    for kind in (*BUILT_IN, *own):
        if not isinstance(kind, Kind):
            raise SettingsError(f"kinds takes kinds, not {type(kind).__name__}")
        if kinds.setdefault(kind.name, kind) is not kind:
            raise SettingsError(f"two kinds are named {kind.name}")
        if tables.setdefault(kind.table, kind.name) != kind.name:
            raise SettingsError(f"kinds {tables[kind.table]} and {kind.name} name the same table {kind.table}")
    return kinds
