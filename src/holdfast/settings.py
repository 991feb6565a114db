"""Settings: arguments first, then ``HOLDFAST_*`` in the environment, then a TOML file.

`Settings` is the reference: each field's text says what it means, its unit and its default; the environment
variable is the field's name in capitals behind ``HOLDFAST_``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta

from holdfast.errors import SettingsError
from holdfast.recovery.webhook_address import read_address
from holdfast.run_context.limits import AROUND_BYTES_MAX
from holdfast.sensitivity.master_keys import MasterKeys
from holdfast.sensitivity.master_keys import shown as shown_master_keys

PREFIX: Final = "HOLDFAST_"
_LISTS: Final = {"redis_urls", "master_keys"}
_SCHEMES: Final = {"postgresql", "postgres", "redis", "rediss"}

Seconds = Annotated[float, Meta(gt=0, le=86_400 * 366)]
Days = Annotated[int, Meta(ge=1, le=36_500)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 30)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one server.

    Attributes:
        postgres_url: L3, ``postgresql://user:password@host:port/database``; empty: the embedded PostgreSQL.
        postgres_ca_file: certificates (PEM) to trust for L3; empty: the system's.
        redis_urls: L2, any nodes of one cluster or one server, ``redis[s]://user:password@host:port``,
            separated by commas; empty: the embedded Valkey cluster.
        redis_ca_file: certificates (PEM) to trust for ``rediss`` URLs; empty: the system's.
        key_prefix: of every key in L2.
        home: directory of the embedded servers; empty: ``HOLDFAST_HOME``, else the user's data directory.
        embedded_replicas: replicas of each embedded primary, 0 or 1.
        embedded_postgres_version: 16 or 18.
        staleness_bound_seconds: a bounded read misses nothing that was committed longer before it, on any server;
            0.05 to 60; 0.25 s. Kinds may have their own.
        migrate_on_connect: bring the database's schema up to date when connecting; otherwise `holdfast
            migrate` must.
        l1_swarm_entries_max, l1_swarm_ttl_seconds: the seed's swarm cache: 1000 entries, 300 s.
        l1_run_entries_max, l1_run_ttl_seconds: the seed's run cache: 500 entries, 600 s.
        l1_config_entries_max, l1_config_ttl_seconds: the cache that bots, teams and routines share: 2000
            entries, 900 s.
        l2_request_timeout_seconds: after which L2 counts as failed for a request, once connected; 0.5 s.
        l2_connect_timeout_seconds: for one connection to L2; 2 s.
        l2_compress_above_bytes: documents larger than this are gzipped in L2; 1024 bytes.
        l2_lease_seconds: how long one server may keep the others from loading a key that L2 does not hold; 0.2 s.
        l2_fence_lifetime_seconds: how long a fence stands in L2. A fill may come at most half of it after its
            read began. Every kind's TTL in L2 must be at least this; 60 s.
        l3_connections_max: connections to L3; 20.
        l3_queue_max: calls that may wait for one of them; the next is refused with `Overloaded`; 1000.
        l3_connect_timeout_seconds: the wait for a connection, opening included; 30 s.
        l3_statement_timeout_seconds: after which the server gives up a statement; 30 s.
        l3_silence_seconds: how long L3 may say nothing when it is asked for a sign of life, before it is cut off and
            calls are given up that it was sent; more on a slow link, where a connection takes longer to open; 0.7 s.
        verify_share: of the answers of L1 and L2, the share that is verified against L3, 0 to 1; 0 switches the
            verifier off; 0.001.
        verify_checks_max: answers verified in a second at most, however many are given; 20.
        document_bytes_max: size of an encoded document; 1 MiB.
        document_depth_max: nesting of a document, at most 128; 64.
        inflated_bytes_max: what an L2 entry may inflate to before it counts as corrupt; 8 MiB, at least
            `document_bytes_max`.
        event_bytes_max: size of the data of an event, as JSON; 256 KiB.
        event_queue_max: fire-and-forget events that may wait for one handler; then the oldest of the least urgent gives
            way; 1000.
        event_backlog_max: reliable events of one of the 16 partitions and one priority that may wait for any reader;
            then publishing is refused with `Overloaded`; 10,000.
        event_handler_timeout_seconds: for one call of a handler; 30 s.
        event_attempts_max: calls of a handler with one reliable event, before it becomes a dead letter; 5.
        event_publish_timeout_seconds: how long L2 may take to accept a reliable event; 15 s.
        event_lease_seconds: after which the events of a server that died are handled by another of its group; 6 s.
        event_group_idle_seconds: after which a group that no server reads for is forgotten, with its position; one day.
        write_behind_quiet_seconds: after the last accepted write of a key, it is brought to L3; 2 s.
        write_behind_age_seconds: and that long after the first at the latest; 5 s.
        write_behind_writes_max, write_behind_bytes_max: accepted writes that may wait for L3; the next is refused with
            `Overloaded`. From half of it on each call waits until its own is committed; 50,000 and 64 MiB.
        write_behind_crowded_seconds: each call waits so too when the oldest accepted write is that old, and is refused
            if L3 is away; 30 s.
        write_behind_commit_seconds: how long a call waits for a durability before `Undecided` is raised; 30 s.
        write_behind_close_seconds: how long closing waits for L3 to take what was accepted; 25 s.
        write_behind_takeover_seconds: after which the journal of a server that gives no sign is taken over; 10 s.
        journal_replicas: of L2 that must have an entry before its write counts as JOURNALED; otherwise it is committed
            at once. With 0 the append-only file of the node will do. By default 1; of the embedded servers, as many as
            `embedded_replicas`.
        run_deltas_per_base: a run's context is written as a whole behind so many snapshots of what changed, or later,
            when these have twice its bytes; 50.
        run_variables_max: variables of one run; 10,000.
        run_bytes_max: of one run's context as JSON, which must fit in one document: it is at least 16 KiB below
            `document_bytes_max`; 768 KiB.
        run_depth_max: runs above one another; 16.
        run_children_max: runs begun below one; 10,000.
        run_snapshot_months: how many months of run snapshots are kept, beside the current one; older ones are dropped,
            a month at a time, when no run that has any there is still under way; 1 to 1200. By default all are kept.
        master_keys: by which the data keys are wrapped that secret variables of runs are sealed with, each ``id:key``
            with 32 bytes in base64 as `holdfast keys new` makes them, separated by commas. The first wraps what is new,
            the others are there to be rotated away from; by default none, and no variable can be secret.
        run_on_conflict: what becomes of a variable that a run and one below it have both changed, where neither the
            variable nor the run says otherwise: parent_wins, child_wins, merge_objects, keep_latest or manual_review;
            parent_wins.
        export_secrets: what becomes of secret and pii variables that are to leave a run for anything but its parent:
            refuse, or mask: three asterisks leave in the value's place; refuse.
        clock_skew_ms_max: how far ahead of this server's clock another's may be before a conflict that time resolves is
            flagged; 500 ms.
        delivery_attempts_max: calls of an exporter with one delivery, before it is dead; 8.
        delivery_timeout_seconds: for one call of an exporter; 30 s.
        review_policy: while a person is asked to decide a conflict, the run that merges waits (``wait``), or goes on
            with its own value, and the decision reaches it later (``go_on``); wait.
        review_timeout_seconds: after which `review_fallback` decides what nobody has; one hour.
        review_fallback: a conflict strategy: parent_wins, child_wins, merge_objects or keep_latest; parent_wins.
        review_keep_days: how long a review is kept after its decision, at least until its run has ended; 30.
        recovery_log_rows_max: lines of the recovery log that L3 keeps, the newest; 10,000.
        quarantine_rows_max: entries of the quarantine that L3 keeps, those met last for the first time; each has 64 KiB
            at most; 1000.
        escalation_timeout_seconds: how long a person has to answer an escalation, where neither a strategy of yours nor
            who asks says so; then its fallback is done.
        escalation_keep_days: how long an escalation is kept after its decision; 30.
        escalation_webhook_url: is sent each escalation, as JSON, when it is opened and when it is decided; https, or
            http on this machine; by default none. It is never shown but for its host.
        escalation_webhook_secret: by which what is sent is signed: the header ``Holdfast-Signature`` has the
            HMAC-SHA-256 of time, idempotency key and body; by default nothing is signed.
        escalation_webhook_plain: the URL may be http to other machines too, where others on the way can read and change
            what is sent.
    """

    postgres_url: str = ""
    postgres_ca_file: str = ""
    redis_urls: tuple[str, ...] = ()
    redis_ca_file: str = ""
    key_prefix: Annotated[str, Meta(max_length=64, pattern=r"\A[^{}\s]*\Z")] = "vrooli:"
    home: str = ""
    embedded_replicas: Annotated[int, Meta(ge=0, le=1)] = 0
    embedded_postgres_version: Literal[16, 18] = 18
    staleness_bound_seconds: Annotated[float, Meta(ge=0.05, le=60)] = 0.25
    migrate_on_connect: bool = True
    l1_swarm_entries_max: Count = 1000
    l1_swarm_ttl_seconds: Seconds = 5 * 60.0
    l1_run_entries_max: Count = 500
    l1_run_ttl_seconds: Seconds = 10 * 60.0
    l1_config_entries_max: Count = 2000
    l1_config_ttl_seconds: Seconds = 15 * 60.0
    l2_request_timeout_seconds: Seconds = 0.5
    l2_connect_timeout_seconds: Seconds = 2.0
    l2_compress_above_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 1024
    l2_lease_seconds: Annotated[float, Meta(ge=0, le=60)] = 0.2
    l2_fence_lifetime_seconds: Seconds = 60.0
    l3_connections_max: Count = 20
    l3_queue_max: Count = 1000
    l3_connect_timeout_seconds: Seconds = 30.0
    l3_statement_timeout_seconds: Seconds = 30.0
    l3_silence_seconds: Annotated[float, Meta(ge=0.1, le=60)] = 0.7
    verify_share: Annotated[float, Meta(ge=0, le=1)] = 0.001
    verify_checks_max: Annotated[int, Meta(ge=1, le=1000)] = 20
    document_bytes_max: Bytes = 1024 * 1024
    document_depth_max: Annotated[int, Meta(ge=1, le=128)] = 64
    inflated_bytes_max: Bytes = 8 * 1024 * 1024
    event_bytes_max: Bytes = 256 * 1024
    event_queue_max: Count = 1000
    event_backlog_max: Count = 10_000
    event_handler_timeout_seconds: Seconds = 30.0
    event_attempts_max: Count = 5
    event_publish_timeout_seconds: Seconds = 15.0
    event_lease_seconds: Annotated[float, Meta(ge=0.5, le=86_400)] = 6.0
    event_group_idle_seconds: Seconds = 86_400.0
    write_behind_quiet_seconds: Seconds = 2.0
    write_behind_age_seconds: Seconds = 5.0
    write_behind_writes_max: Count = 50_000
    write_behind_bytes_max: Bytes = 64 * 1024 * 1024
    write_behind_crowded_seconds: Seconds = 30.0
    write_behind_commit_seconds: Seconds = 30.0
    write_behind_close_seconds: Seconds = 25.0
    write_behind_takeover_seconds: Annotated[float, Meta(ge=0.5, le=86_400)] = 10.0
    journal_replicas: Annotated[int, Meta(ge=0, le=10)] | None = None
    run_deltas_per_base: Annotated[int, Meta(ge=1)] = 50
    run_variables_max: Annotated[int, Meta(ge=1)] = 10_000
    run_bytes_max: Annotated[int, Meta(ge=1)] = 768 * 1024
    run_depth_max: Annotated[int, Meta(ge=0)] = 16
    run_children_max: Annotated[int, Meta(ge=0)] = 10_000
    run_snapshot_months: Annotated[int, Meta(ge=1, le=1200)] | None = None
    master_keys: tuple[str, ...] = ()
    run_on_conflict: Literal["parent_wins", "child_wins", "merge_objects", "keep_latest", "manual_review"] = (
        "parent_wins"
    )
    export_secrets: Literal["refuse", "mask"] = "refuse"
    clock_skew_ms_max: Annotated[int, Meta(ge=0, le=3_600_000)] = 500
    delivery_attempts_max: Annotated[int, Meta(ge=1, le=1000)] = 8
    delivery_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    review_policy: Literal["wait", "go_on"] = "wait"
    review_timeout_seconds: Seconds = 3600.0
    review_fallback: Literal["parent_wins", "child_wins", "merge_objects", "keep_latest"] = "parent_wins"
    review_keep_days: Days = 30
    recovery_log_rows_max: Count = 10_000
    quarantine_rows_max: Count = 1000
    escalation_timeout_seconds: Seconds = 60.0
    escalation_keep_days: Days = 30
    escalation_webhook_url: str = ""
    escalation_webhook_secret: Annotated[str, Meta(max_length=1024)] = ""
    escalation_webhook_plain: bool = False

    def __post_init__(self) -> None:
        """Check each field, as the sources do, and what no single field can say."""
        _checked({name: getattr(self, name) for name in self.__struct_fields__}, "Settings", strict=True)
        if self.inflated_bytes_max < self.document_bytes_max:
            raise SettingsError("inflated_bytes_max must be at least document_bytes_max")
        if self.run_bytes_max + AROUND_BYTES_MAX > self.document_bytes_max:
            raise SettingsError(
                f"run_bytes_max must be at least {AROUND_BYTES_MAX} below document_bytes_max: a context is stored in "
                f"one document; here they are {self.run_bytes_max} and {self.document_bytes_max}"
            )
        MasterKeys.read(self.master_keys)
        if self.escalation_webhook_url:
            read_address(self.escalation_webhook_url, plain_allowed=self.escalation_webhook_plain)
        if bool(self.postgres_url) != bool(self.redis_urls):
            given, other = ("postgres_url", "redis_urls") if self.postgres_url else ("redis_urls", "postgres_url")
            raise SettingsError(
                f"{given} is set and {other} is not: name both servers, or neither for the embedded ones"
            )

    @property
    def embedded(self) -> bool:
        """No server is named: the embedded ones are used."""
        return not self.postgres_url

    def __repr__(self) -> str:
        """Every setting, URLs without what is secret in them, master keys by their ids alone, no other secret."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self._shown())

    def _shown(self) -> Iterator[tuple[str, Any]]:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "postgres_url":
                value = _redacted(value)
            elif name == "redis_urls":
                value = tuple(_redacted(url) for url in value)
            elif name == "master_keys":
                value = shown_master_keys(value)
            elif value and name == "escalation_webhook_url":
                value = read_address(value, plain_allowed=True).shown
            elif value and name == "escalation_webhook_secret":
                value = "***"
            yield name, value


def load_settings(
    *, environment: Mapping[str, str], file: Path | None = None, arguments: Mapping[str, Any] | None = None
) -> Settings:
    """Join the three sources.

    Args:
        environment: usually `os.environ`. ``HOLDFAST_CONFIG`` names the TOML file if `file` does not.
        file: TOML, one key per setting.
        arguments: settings by name; None counts as not given.

    Raises:
        SettingsError: an unknown setting, or a value that cannot work: which source, which setting, what it
            takes.
    """
    named = file or (Path(found) if (found := environment.get(PREFIX + "CONFIG")) else None)
    values: dict[str, Any] = _checked(_read_file(named), f"{named}") if named else {}
    values |= _checked(_from_environment(environment), "environment")
    values |= _checked({name: value for name, value in (arguments or {}).items() if value is not None}, "arguments")
    return Settings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise SettingsError(f"settings file {path} cannot be read: {fault.strerror}") from fault
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SettingsError(f"settings file {path} is not TOML: {fault}") from fault


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        # A Kubernetes service named holdfast puts HOLDFAST_PORT_... and HOLDFAST_SERVICE_... into every environment.
        if not variable.startswith(PREFIX) or variable.startswith((PREFIX + "PORT", PREFIX + "SERVICE_")):
            continue
        if variable == PREFIX + "CONFIG":
            continue
        name = variable.removeprefix(PREFIX).lower()
        found[name] = [each.strip() for each in text.split(",") if each.strip()] if name in _LISTS else text
    return found


def _checked(values: Mapping[str, Any], source: str, *, strict: bool = False) -> dict[str, Any]:
    """The values in their types; each fault names its source and its setting."""
    types = get_type_hints(Settings, include_extras=True)
    checked = {}
    for name, value in values.items():
        if name not in types:
            raise SettingsError(f"{source}: there is no setting {name}")
        try:
            checked[name] = msgspec.convert(value, types[name], strict=strict)
        except msgspec.ValidationError as fault:
            raise SettingsError(f"{source}: {name}: {fault}") from fault
    return checked


def _redacted(url: str) -> str:
    """A URL without user, password and options. It need not be a valid one: what cannot be told apart is hidden."""
    scheme, separator, rest = url.partition("://")
    if url and scheme not in _SCHEMES:
        return "***"
    before, at, host = rest.rpartition("@")
    if at and "?" in before:
        return f"{scheme}{separator}***"
    return f"{scheme}{separator}{'***@' if at else ''}{host.partition('?')[0]}"
