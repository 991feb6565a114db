"""A server in a process of its own that writes, to be killed, suspended or ended by SIGTERM.

It says "ready" when it is connected, follows the orders on its input, one JSON line each, and says "done" after each.
It closes its store when the input ends, or on SIGTERM. Further arguments change how it works: see `CHANGES`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

import msgspec

import holdfast
from fix_write_behind import noted
from holdfast import Durability, Increment, NotOwner, Receipt, Refused, Swarm, TierError
from holdfast.node import OpenStore
from holdfast.run_context.active_run import ActiveRun
from holdfast.settings import Settings
from holdfast.tiers.l3_flush import PostgresFlush
from holdfast.write_behind import renewal
from holdfast.write_behind.journal import JournalWriter
from holdfast.write_behind.receipts import PendingWrite

PACE_SECONDS = 0.002
"""After each write that does not wait for a tier."""
RETRY_SECONDS = 0.02
"""After a write that is not acknowledged; the next one has another name, for this one may be in effect."""
WRITERS = tuple(Durability)
TOGETHER = 10
"""Calls on one key at once, where it writes so many and no more."""
READS_TOGETHER = 100
"""Calls on keys that have to be read first, which are read together then."""


class Write(msgspec.Struct, tag=True):
    """Write for ever: at each durability to a key of its own, and all three to the key "mixed".

    Attributes:
        file: gets a line for each acknowledgement, before the same writer's next write; see `Ledger`.
        prefix: of keys and of what is written.
    """

    file: str
    prefix: str


class Count(msgspec.Struct, tag=True):
    """Add 1 to a counter, so many times at each durability; the keys are the durabilities' names.

    Attributes:
        times: a multiple of `TOGETHER`.
    """

    times: int


class Dirty(msgspec.Struct, tag=True):
    """Accept one write for each of so many keys."""

    keys: int


class RunOn(msgspec.Struct, tag=True):
    """Begin a run, and write to it until it is another's; then tell what became of each write.

    Attributes:
        file: gets a line for each acknowledgement, then one for each write: "committed" or why it was refused, and its
            number.
        run: its id; its variable "n" is the number of the write.
    """

    file: str
    run: str


class MergeOn(msgspec.Struct, tag=True):
    """Begin a run with runs below it, end these one after the other, and merge each.

    Attributes:
        file: gets a line for each that was merged and kept.
        run: the id of the run above; those of the others are that, a dot and a number.
        children: how many.
    """

    file: str
    run: str
    children: int


class Hide(msgspec.Struct, tag=True):
    """Begin a run with these secret variables, v0 and so on, kept in the journal one by one; then wait to be killed.

    Attributes:
        file: gets a line for each that is kept.
        marker: a public one, written beside each.
    """

    file: str
    run: str
    secrets: list[str]
    marker: str


Order = Write | Count | Dirty | RunOn | MergeOn | Hide


class Ledger:
    """What was acknowledged, in a file that outlives this process.

    A line has the key, what was written, the durability asked for, the one reached, how many lines there were when the
    write began, and when it was acknowledged, monotonic seconds.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.lines = 0

    def add(self, key: str, name: str, asked: Durability, reached: Durability, follows: int) -> None:
        """Add a line, in one call of the system."""
        line = f"{key} {name} {asked.value} {reached.value} {follows} {time.monotonic()}\n"
        os.write(self._file, line.encode())
        self.lines += 1


async def write_on(state: OpenStore, ledger: Ledger, key: str, durability: Durability) -> None:
    for number in count():
        name, follows = f"{durability.value}-{number}", ledger.lines
        try:
            receipt = await state.swarms.patch(key, *noted(name), default=Swarm(), durability=durability)
        except TierError:
            await asyncio.sleep(RETRY_SECONDS)
            continue
        ledger.add(key, name, durability, receipt.durability, follows)
        if durability is Durability.ACCEPTED:
            await asyncio.sleep(PACE_SECONDS)


async def write(state: OpenStore, order: Write) -> None:
    ledger = Ledger(order.file)
    keys = {durability: f"{order.prefix}-{durability.value}" for durability in WRITERS}
    await asyncio.gather(
        *(write_on(state, ledger, key, durability) for durability, key in keys.items()),
        *(write_on(state, ledger, f"{order.prefix}-mixed", durability) for durability in WRITERS),
    )


async def add_up(state: OpenStore, order: Count) -> None:
    async def add(durability: Durability) -> None:
        for _ in range(order.times // TOGETHER):
            await state.swarms.patch(
                durability.value, Increment("stats", "total_tool_calls"), default=Swarm(), durability=durability
            )

    for durability in WRITERS:
        await asyncio.gather(*(add(durability) for _ in range(TOGETHER)))
    assert await state.flush(timeout=60) == []


async def dirty(state: OpenStore, order: Dirty) -> None:
    async def some(start: int) -> None:
        for number in range(start, order.keys, READS_TOGETHER):
            await state.swarms.patch(f"d{number:05}", *noted("1"), default=Swarm(), durability=Durability.ACCEPTED)

    await asyncio.gather(*map(some, range(READS_TOGETHER)))


async def run_on(state: OpenStore, order: RunOn) -> None:
    run, ledger = await state.runs.begin("count", run_id=order.run), Ledger(order.file)
    receipts = list[Receipt]()
    try:
        for number in count():
            run.context["n"] = number
            receipt = await run.save()
            assert receipt is not None
            receipts.append(receipt)
            ledger.add(order.run, str(number), Durability.JOURNALED, receipt.durability, number)
            await asyncio.sleep(PACE_SECONDS)
    except NotOwner:
        await state.flush(timeout=60)
    for number, receipt in enumerate(receipts):
        try:
            await receipt.reached(Durability.COMMITTED, 10.0)
        except Refused as refused:
            os.write(ledger._file, f"{refused.reason} {number}\n".encode())
        else:
            os.write(ledger._file, f"committed {number}\n".encode())


def write_exports(run: ActiveRun) -> None:
    """What each child leaves its parent: a variable that all write, and one of its own."""
    for key in ("last", run.id):
        run.context[key] = run.id
        run.context.mark_for_export(key, "parent_context")


async def hide(state: OpenStore, order: Hide) -> None:
    run, ledger = await state.runs.begin("hide", run_id=order.run), Ledger(order.file)
    for number, secret in enumerate(order.secrets):
        run.context.set(f"v{number}", secret, sensitivity="secret")
        run.context["marker"] = order.marker
        receipt = await run.save(Durability.JOURNALED)
        assert receipt is not None
        ledger.add(order.run, str(number), Durability.JOURNALED, receipt.durability, number)
    await asyncio.Event().wait()


async def merge_on(state: OpenStore, order: MergeOn) -> None:
    parent = await state.runs.begin("search", run_id=order.run, on_conflict="child_wins")
    parent.context["last"] = ""
    names = [f"{order.run}.{number:02}" for number in range(order.children)]
    children = [await state.runs.begin("look", parent=parent, run_id=name) for name in names]
    ledger = Ledger(order.file)
    for child in children:
        write_exports(child)
        await child.complete()
        await parent.merge_children()
        ledger.add(order.run, child.id, Durability.JOURNALED, Durability.JOURNALED, 0)


async def follow(state: OpenStore) -> None:
    """Follow orders until the input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        match msgspec.json.decode(line, type=Order):
            case Write() as order:
                await write(state, order)
            case Count() as order:
                await add_up(state, order)
            case Dirty() as order:
                await dirty(state, order)
            case RunOn() as order:
                await run_on(state, order)
            case Hide() as order:
                await hide(state, order)
            case MergeOn() as order:
                await merge_on(state, order)
        say("done")


def say(word: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def tell_where() -> None:
    """Say on the error output where each task waits, for whoever wonders why nothing goes on."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=12, file=sys.stderr)
    sys.stderr.flush()


async def serve(settings: Settings) -> None:
    """Be a server until the input ends, or SIGTERM comes."""
    terminated, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    loop.add_signal_handler(signal.SIGUSR1, tell_where)
    async with holdfast.connect(settings) as state:
        say("ready")
        following = asyncio.ensure_future(follow(state))
        ending = asyncio.ensure_future(terminated.wait())
        await asyncio.wait([following, ending], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        following.cancel()
        ending.cancel()
    say("closed")


def stops_inside_a_flush() -> None:
    """Not a mutant: the process stands still when it is about to commit for the fifth time."""
    commit, commits = PostgresFlush.commit, count(1)

    async def commit_later(flush: PostgresFlush) -> None:
        if next(commits) == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        await commit(flush)

    PostgresFlush.commit = commit_later  # type: ignore[assignment, method-assign]


def journals_nothing() -> None:
    """Mutant: what was accepted counts as journaled, and L2 never gets it."""

    async def round_(writer: JournalWriter) -> None:
        for written in writer._batch():
            writer._appended(written, 1)

    JournalWriter._round = round_  # type: ignore[assignment, method-assign]


def enters_all_again() -> None:
    """Mutant: whoever was replaced enters again whatever it had not heard to be decided."""

    def settle(_: str, writes: Iterable[PendingWrite], *__: object) -> list[PendingWrite]:
        return list(writes)

    renewal.settle = settle  # type: ignore[assignment]


CHANGES: Final[dict[str, Callable[[], None]]] = {
    change.__name__: change for change in (stops_inside_a_flush, journals_nothing, enters_all_again)
}


if __name__ == "__main__":
    for name in sys.argv[2:]:
        CHANGES[name]()
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=Settings)))
