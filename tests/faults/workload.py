"""A steady load on servers while something below them fails: what its callers saw, and what they were promised.

Each server has writers at each durability, and two readers. A put that may be in effect or not is the last of its
document, for it may take effect after any later one; a put that was refused must never be seen.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, Literal, TypeAlias, TypeVar

from faults.records import NEVER_PROVEN, RULES
from fix_write_behind import names_in, noted
from holdfast import ActiveRun, Bot, Consistency, Durability, OutcomeUnknown, Swarm, Team, TierError, Undecided
from holdfast.node import OpenStore
from holdfast.testing.history import History, check

T = TypeVar("T")

Phase: TypeAlias = Literal["before", "during", "after"]
Document: TypeAlias = tuple[Literal["bots", "teams"], str]
"""Which collection, and the id."""

PATCH_PAUSE_SECONDS = 0.05
SAVE_PAUSE_SECONDS = 0.1
PUT_PAUSE_SECONDS: Final = {"bots": 0.02, "teams": 0.5}
"""After each write of a writer, done or not: bots change all the time, teams are in memory as a rule."""
PASS_PAUSE_SECONDS = 0.01
"""Between two passes of a reader over all documents it reads."""
STRONG_EACH = 50
"""One pass of so many asks L3 for the newest bots. Memory learns by it, which hides old answers; so teams never."""
LABELLED_EACH = 4
"""One pass of so many takes what is stale, if it says so."""
MAX_STALE_SECONDS = 600.0
SWARMS = 10
"""Each writer patches so many, which its server knows: a patch of one it does not know has to ask L3 first."""
READ_OF_A_WRITER = 4
"""Documents that are read: so many first ones of each writer, and so many last ones."""
WARM = 5
"""Teams that are in the memory of every server, and do not change: read with `max_stale` they are always answered."""
WARM_READ: Final = "read warm"
VARIABLE = "n"
"""Of a run of each server, counted up."""
SORTS: Final = {"bots": Bot, "teams": Team}


class Seen:
    """What callers saw in one phase.

    Attributes:
        calls: answered or not, by what was called.
        errors: by what was called and the error's type, as in ``put OutcomeUnknown``.
        seconds: how long each took, by what was called.
        labelled: answers that said that they may be stale.
        said: what the last error of each type said.
    """

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.errors = Counter[str]()
        self.seconds = defaultdict[str, list[float]](list)
        self.labelled = 0
        self.said: dict[str, str] = {}


class Numbers:
    """The numbers of a document's acknowledged states, and when each was."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._at: list[float] = []

    def add(self, number: int, at: float) -> None:
        """Take in the next one."""
        self._numbers.append(number)
        self._at.append(at)

    @property
    def last(self) -> int:
        """The newest; 0: none was acknowledged."""
        return self._numbers[-1] if self._numbers else 0

    def age(self, number: int, now: float) -> float:
        """How long before `now` a newer one was acknowledged; 0.0: none was."""
        place = bisect_right(self._numbers, number)
        return max(0.0, now - self._at[place]) if place < len(self._at) else 0.0


class Workload:
    """Writers and readers.

    Args:
        servers: by name.
        bound_seconds: how old an answer without a label may be.

    Attributes:
        phase: what happens now; a call that another phase began in belongs to the fault.
        seen: what callers saw, by phase.
        oldest_seconds: by how much the oldest answer without a label was behind.
        oldest_labelled_seconds: and the oldest with one.
        owed: accepted patches by the durability that was acknowledged, then by swarm.
    """

    def __init__(self, servers: Mapping[str, OpenStore], bound_seconds: float) -> None:
        self.phase: Phase = "before"
        self.seen: dict[Phase, Seen] = {"before": Seen(), "during": Seen(), "after": Seen()}
        self.oldest_seconds = self.oldest_labelled_seconds = 0.0
        self.owed: dict[Durability, dict[str, set[str]]] = {each: defaultdict(set) for each in Durability}
        self._servers = servers
        self._bound = bound_seconds
        self._history = History()
        self._put: dict[Document, Numbers] = {}
        self._number = count(1)
        self._runs: dict[str, ActiveRun] = {}
        self._saved: dict[str, int] = {}
        self._backwards: list[str] = []
        self._read: dict[tuple[str, str], list[Document]] = defaultdict(list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and read at every server in this block; the fault of a writer or reader is raised at its end."""
        warm = {f"warm-{number}": Team(name="warm") for number in range(WARM)}
        await next(iter(self._servers.values())).teams.put_many(warm)
        for store in self._servers.values():
            assert await store.teams.get_many(warm) == warm
        for name, store in self._servers.items():
            self._runs[name] = await store.runs.begin("count", run_id=f"run-{name}")
        tasks = [asyncio.ensure_future(each) for name in self._servers for each in self._workers(name)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if not isinstance(outcome, asyncio.CancelledError) and isinstance(outcome, BaseException):
                raise outcome

    async def probe(self, name: str) -> str | None:
        """Why a server does not write at each durability, and read, as it should; None: it does."""
        store, identifier = self._servers[name], f"probe-{name}"
        try:
            await store.bots.put(identifier, Bot(name="probe"))
            receipt = await store.swarms.patch(
                identifier, *noted(str(next(self._number))), default=Swarm(), durability=Durability.JOURNALED
            )
            assert await store.bots.get(identifier) is not None
        except TierError as fault:
            return str(fault)
        return (
            None if receipt.durability is Durability.JOURNALED else "L2 keeps no journal: a write was committed at once"
        )

    def documents(self) -> Iterator[Document]:
        """Those that are read now."""
        for written in self._read.values():
            yield from written[:READ_OF_A_WRITER]
            yield from written[READ_OF_A_WRITER:][-READ_OF_A_WRITER:]

    def violations(self) -> list[str]:
        """What the history checker finds, and moments of runs that went back, in words."""
        return [*(violation.facts for violation in check(self._history, rules=RULES)), *self._backwards]

    async def lost(self, store: OpenStore) -> dict[str, int]:
        """Acknowledged writes that are not in effect, by durability, as L3 says; all must have been decided."""
        lost = {each.value: 0 for each in Durability}
        for durability, swarms in self.owed.items():
            for some in _in_parts(swarms):
                rows = await store.swarms.get_many(some, consistency=Consistency.STRONG)
                lost[durability.value] += sum(len(swarms[each] - set(names_in(rows.get(each)))) for each in some)
        for sort in SORTS:
            put = {identifier: numbers for (kept, identifier), numbers in self._put.items() if kept == sort}
            for some in _in_parts(put):
                found = await getattr(store, sort).get_many(some, consistency=Consistency.STRONG)
                lost[Durability.COMMITTED.value] += sum(_number(found.get(each)) < put[each].last for each in some)
        for run_id, number in self._saved.items():
            view = await store.runs.get(run_id, consistency=Consistency.STRONG)
            assert view is not None
            lost[Durability.JOURNALED.value] += number > view.state.variables[VARIABLE].value
        return lost

    def acknowledged(self) -> dict[str, int]:
        """How many writes were, by durability."""
        counts = {each.value: sum(map(len, swarms.values())) for each, swarms in self.owed.items()}
        counts[Durability.COMMITTED.value] += self._history.writes
        counts[Durability.JOURNALED.value] += sum(self._saved.values())
        return counts

    def _workers(self, name: str) -> Iterable[Any]:
        yield from (self._put_on(name, sort) for sort in ("bots", "teams"))
        yield from (self._patch_on(name, durability) for durability in Durability)
        yield self._save_on(name)
        yield self._read_on(name)
        yield self._read_warm_on(name)

    async def _call(self, what: str, call: Awaitable[T]) -> T | Exception:
        phase, began = self.phase, time.monotonic()
        fault: Exception | None = None
        try:
            return await call
        except Exception as raised:  # noqa: BLE001 - an error that nobody may see is a finding, and not an end
            fault = raised
            return raised
        finally:
            seen = self.seen[phase if phase == self.phase else "during"]
            seen.calls[what] += 1
            seen.seconds[what].append(time.monotonic() - began)
            if fault is not None:
                seen.errors[f"{what} {type(fault).__name__}"] += 1
                seen.said[type(fault).__name__] = str(fault)

    async def _put_on(self, name: str, sort: Literal["bots", "teams"]) -> None:
        for place in count():
            document = (sort, f"{name}-{place}")
            self._read[name, sort].append(document)
            is_known = True
            while is_known:
                is_known = await self._put_one(name, document)
                await asyncio.sleep(PUT_PAUSE_SECONDS[sort])

    async def _put_one(self, name: str, document: Document) -> bool:
        """Put the document's next state; False: whether it is in effect is not known, nor will it be."""
        number, begun, (sort, identifier) = next(self._number), time.monotonic(), document
        value = SORTS[sort](name=str(number))
        try:
            outcome = await self._call("put", getattr(self._servers[name], sort).put(identifier, value))
        except asyncio.CancelledError:
            self._history.committed(document, number, NEVER_PROVEN, begun=begun)
            raise
        if isinstance(outcome, OutcomeUnknown):
            self._history.committed(document, number, NEVER_PROVEN, begun=begun)
            return False
        if not isinstance(outcome, Exception):
            at = time.monotonic()
            self._history.committed(document, number, at, begun=begun)
            self._history.wrote(None, document, number, at)
            self._put.setdefault(document, Numbers()).add(number, at)
        return True

    async def _patch_on(self, name: str, durability: Durability) -> None:
        for number in count():
            swarm, written = f"{name}-{durability.value}-{number % SWARMS}", str(next(self._number))
            patch = self._servers[name].swarms.patch(swarm, *noted(written), default=Swarm(), durability=durability)
            outcome = await self._call(f"patch {durability.value}", patch)
            if isinstance(outcome, Undecided):
                self.owed[Durability.ACCEPTED][swarm].add(written)
            elif not isinstance(outcome, Exception):
                self.owed[durability][swarm].add(written)
            await asyncio.sleep(PATCH_PAUSE_SECONDS)

    async def _save_on(self, name: str) -> None:
        """Count up a variable of a run; each of its moments is to be later than the one before."""
        run, moment = self._runs[name], ""
        for number in count(1):
            run.context[VARIABLE] = number
            now = run.context.variable(VARIABLE).clock
            if now <= moment:
                self._backwards.append(f"{run.id}: the moment {now} follows {moment}")
            moment = now
            if not isinstance(await self._call("save", run.save(Durability.JOURNALED)), Exception):
                self._saved[run.id] = number
            await asyncio.sleep(SAVE_PAUSE_SECONDS)

    async def _read_on(self, name: str) -> None:
        for number in count():
            for document in list(self.documents()):
                if number % LABELLED_EACH == 0:
                    await self._read_labelled(name, document)
                else:
                    await self._read_one(name, document, strong=number % STRONG_EACH == 1 and document[0] == "bots")
            await asyncio.sleep(PASS_PAUSE_SECONDS)

    async def _read_one(self, name: str, document: Document, *, strong: bool) -> None:
        (sort, identifier), began = document, time.monotonic()
        consistency = Consistency.STRONG if strong else Consistency.BOUNDED
        get = getattr(self._servers[name], sort).get(identifier, consistency=consistency)
        found = await self._call("read strong" if strong else "read", get)
        if not isinstance(found, Exception):
            self._judge(name, document, _number(found), began, strong=strong)

    async def _read_warm_on(self, name: str) -> None:
        for number in count():
            read = self._servers[name].teams.entry(f"warm-{number % WARM}", max_stale=MAX_STALE_SECONDS)
            entry = await self._call(WARM_READ, read)
            if not isinstance(entry, Exception):
                assert entry is not None
                assert entry.value.name == "warm"
                self.seen[self.phase].labelled += entry.stale
            await asyncio.sleep(PASS_PAUSE_SECONDS)

    async def _read_labelled(self, name: str, document: Document) -> None:
        (sort, identifier), began = document, time.monotonic()
        entry = await self._call(
            "read max_stale", getattr(self._servers[name], sort).entry(identifier, max_stale=MAX_STALE_SECONDS)
        )
        if entry is None or isinstance(entry, Exception):
            return
        if not entry.stale:
            self._judge(name, document, _number(entry.value), began, strong=False)
            return
        self.seen[self.phase].labelled += 1
        age = self._put[document].age(_number(entry.value), began) if document in self._put else 0.0
        self.oldest_labelled_seconds = max(self.oldest_labelled_seconds, age)

    def _judge(self, name: str, document: Document, number: int, began: float, *, strong: bool) -> None:
        ended = time.monotonic()
        self._history.read(name, document, number or None, began, ended, bound=self._bound, strong=strong)
        if document in self._put:
            self.oldest_seconds = max(self.oldest_seconds, self._put[document].age(number, began))


def _number(document: Any) -> int:
    """The number of a document's state; 0: there is none."""
    return 0 if document is None else int(document.name)


def _in_parts(keys: Iterable[str], size: int = 50) -> Iterator[list[str]]:
    listed = list(keys)
    return (listed[start : start + size] for start in range(0, len(listed), size))
