"""One server: built from `Settings`, started and stopped in order; its tiers are opened by `adapters`.

Start: embedded servers if none are named, L3 (migrated, its identity read), L2 (lazily), the flows. Stop is the
reverse, may come after a start that failed half-way, and may be repeated.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import random
import socket
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import msgspec

from holdfast.adapters import open_tiers, webhook
from holdfast.arguments import SettingArguments
from holdfast.clock import SystemClock
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.errors import Closed, HoldfastError, SettingsError
from holdfast.flows import Flows
from holdfast.given import Given
from holdfast.invalidation.rules import RULES, Rule
from holdfast.invalidation.rules import check as check_rules
from holdfast.keys import KIND_NAME
from holdfast.kinds import Kind, register
from holdfast.recovery.escalation_hooks import RESERVED, WEBHOOK, EscalationHook
from holdfast.recovery.strategies import StateRecoveryStrategy, strategies_with
from holdfast.run_context.exports import Exporter, Transformation
from holdfast.settings import Settings, load_settings
from holdfast.store import StateStore
from holdfast.tiers.l1_caches import build_caches


class Node:
    """One server's life.

    Args:
        sweeps: it decides what is overdue, and recovers from faults; see `Given`.

    Attributes:
        flows: there once `start` has returned.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Iterable[Kind[Any]],
        *,
        progress: Callable[[str], None],
        rules: Iterable[Rule] = RULES,
        transformations: Mapping[str, Transformation] = EMPTY_DICT,
        exporters: Mapping[str, Exporter] = EMPTY_DICT,
        escalation_hooks: Mapping[str, EscalationHook] = EMPTY_DICT,
        recovery: Iterable[StateRecoveryStrategy] = (),
        sweeps: bool = True,
    ) -> None:
        self.settings = settings
        self.kinds = register(kinds)
        self.rules = check_rules(rules, self.kinds)
        self._transformations = _named(transformations)
        self._exporters = _named(exporters)
        self._sweeps = sweeps
        self._clock = SystemClock()
        self._escalation_hooks = _hooks(escalation_hooks, settings, self._clock.wall)
        self._recovery = tuple(recovery)
        strategies_with(self._recovery)
        build_caches(settings, self.kinds, self._clock)  # what cannot work is refused before anything connects
        self.flows: Flows | None = None
        self._progress = progress
        self._stack = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> StateStore:
        """Connect the tiers and open the door. What was started is stopped again if a later step fails."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in reverse order; may be called twice, by several at once, and by a handler of an event.

        Whoever is cancelled here ceases to wait; the server stops all the same.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="holdfast stopping")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self.flows = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _start(self) -> StateStore:
        settings = await with_servers(self.settings, self._progress)
        tiers = await open_tiers(settings, self.kinds, self._clock, self._stack, self._progress)
        flows = Flows(
            Given(
                settings=settings,
                kinds=self.kinds,
                l2=tiers.l2,
                l3=tiers.l3,
                feed=tiers.feed,
                relay=(tiers.relay_feed, tiers.fences),
                past=tiers.past_feed,
                events=tiers.events,
                journals=tiers.journals,
                streams=tiers.streams,
                runs=tiers.runs,
                key_rows=tiers.key_rows,
                reviews=tiers.reviews,
                escalations=tiers.escalations,
                audit=tiers.audit,
                deliveries=tiers.deliveries,
                l2_guard=tiers.l2_guard,
                l3_guard=tiers.l3_guard,
                recovery_log=tiers.recovery_log,
                quarantine=tiers.quarantine,
                new_id=lambda: uuid.uuid4().hex,
                entropy=os.urandom,
                wall=self._clock.wall,
                coherence=tiers.coherence,
                untrusted=tiers.untrusted,
                clock=self._clock,
                sleep=asyncio.sleep,
                random_=random.Random(),  # noqa: S311 - jitter, nothing secret
                server=process_name(),
                rules=self.rules,
                rules_l3=tiers.rules_l3,
                transformations=self._transformations,
                exporters=self._exporters,
                escalation_hooks=self._escalation_hooks,
                recovery=self._recovery,
                sweeps=self._sweeps,
            )
        )
        self._stack.push_async_callback(flows.stop)
        await flows.start()
        self.flows = flows
        return flows.store


def _named(functions: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of functions by name.

    Raises:
        SettingsError: a name is none, or what it names cannot be called.
    """
    for name, function in functions.items():
        if not KIND_NAME.match(name):
            raise SettingsError(f"{name!r}: a name has 1 to 40 of a-z, 0-9 and _, and begins with a letter")
        if not callable(function):
            raise SettingsError(f"{name} is to be a function, not {type(function).__name__}")
    return dict(functions)


def _hooks(
    functions: Mapping[str, EscalationHook], settings: Settings, wall: Callable[[], float]
) -> dict[str, EscalationHook]:
    """A copy of hooks by name, with the webhook of the settings. Raises as `_named`, and for a name that is taken."""
    if taken := RESERVED & functions.keys():
        raise SettingsError(f"escalation_hooks: {', '.join(sorted(taken))} is the name of a hook that is built in")
    built_in = webhook(settings, wall)
    return _named(functions) | ({} if built_in is None else {WEBHOOK: built_in})


async def with_servers(settings: Settings, progress: Callable[[str], None]) -> Settings:
    """The settings with both servers named, the embedded ones started if none were."""
    if not settings.embedded:
        return settings
    # Imported only here: with servers of your own, nothing embedded is even loaded.
    from holdfast.embedded import EmbeddedOptions, default_home, ensure_running  # noqa: PLC0415

    running = await ensure_running(
        EmbeddedOptions(
            home=Path(settings.home) if settings.home else default_home(),
            replicas=settings.embedded_replicas,
            postgres_version=settings.embedded_postgres_version,
        ),
        progress=progress,
    )
    replicas = settings.embedded_replicas if settings.journal_replicas is None else settings.journal_replicas
    return msgspec.structs.replace(
        settings,
        postgres_url=running.postgres_url,
        redis_urls=running.redis_urls,
        journal_replicas=replicas,
        master_keys=settings.master_keys or running.master_keys,
    )


def process_name() -> str:
    """This process, for records: ``user@host:pid``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # nobody of that number is known here
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


class Connecting:
    """What `connect()` returns: await it for an open store that you close, or enter it with `async with`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __await__(self) -> Generator[Any, None, OpenStore]:
        return self._open().__await__()

    async def __aenter__(self) -> OpenStore:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._node.stop()

    async def _open(self) -> OpenStore:
        if self._node.flows is not None:
            raise HoldfastError("this connection is open already; call connect() again for another server")
        await self._node.start()
        return OpenStore(self._node)


class OpenStore(StateStore):
    """An open door; `close()` shuts it and may be called twice."""

    def __init__(self, node: Node) -> None:
        if node.flows is None:
            raise Closed("the server is not started")
        super().__init__(node.flows.parts)
        self._node = node

    async def close(self) -> None:
        """End what is under way, then disconnect."""
        await self._node.stop()


def connect(
    settings: Settings | None = None,
    *,
    kinds: Iterable[Kind[Any]] = (),
    rules: Iterable[Rule] = RULES,
    transformations: Mapping[str, Transformation] = EMPTY_DICT,
    exporters: Mapping[str, Exporter] = EMPTY_DICT,
    escalation_hooks: Mapping[str, EscalationHook] = EMPTY_DICT,
    recovery: Iterable[StateRecoveryStrategy] = (),
    config: Path | str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **arguments: Unpack[SettingArguments],
) -> Connecting:
    """Connect one server: ``async with holdfast.connect() as state:``, or ``state = await holdfast.connect()``.

    With no settings the embedded PostgreSQL and Valkey cluster are started, or reused if they run.

    Args:
        settings: all settings; then neither environment nor file is read.
        kinds: own kinds, beside the built-in ones.
        rules: which change of a document makes what else void: the seed's by default, ``(*RULES, ...)`` for more. All
            servers need the same rules and kinds: those of the one that fences L2 decide.
        transformations: of values on their way out of a run, by the names that `mark_for_export` uses: pure functions
            of a value.
        exporters: who bring values of completed runs to external systems, by the names that `mark_for_export` uses:
            each is awaited with a `Delivery` and its idempotency key, perhaps more than once. Not every server needs
            them.
        escalation_hooks: who are told of escalations, by names of yours: each is awaited with an `EscalationNotice` and
            its idempotency key, when one is opened and when it is decided, perhaps more than once. Not every server
            needs them, but the one that opens it has to know their names.
        recovery: what is done about faults, for types where it is not what `RECOVERY_STRATEGIES` says; a kind may have
            rows of its own.
        config: a TOML file with settings.
        progress: told in words what is being waited for.
        arguments: single settings by name; they win over the environment and the file.

    Raises:
        SettingsError: at once, for a setting that cannot work.
    """
    if settings is not None and (arguments or config is not None):
        raise SettingsError("connect: give either settings, or single settings and config, not both")
    chosen = settings or load_settings(
        environment=os.environ, file=Path(config) if config is not None else None, arguments=arguments
    )
    return Connecting(
        Node(
            chosen,
            kinds,
            progress=progress,
            rules=rules,
            transformations=transformations,
            exporters=exporters,
            escalation_hooks=escalation_hooks,
            recovery=recovery,
        )
    )
