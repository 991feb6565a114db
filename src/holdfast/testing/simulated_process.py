"""Processes of a simulated world: each can be stopped between any two awaits, for a while or for good.

    process = SimulatedProcess()
    process.start(server())                 # all that it starts belongs to the process too
    process.stop_after(steps, told)         # as SIGSTOP would, or a crash if nobody lets it go on
    process.go_on()

What is stopped takes no step, not even to clean up; its timers run out meanwhile, as those of a real process do. A
crash is a stop for good: what the tiers notice of it, a connection that ends, is for the scenario to do. At the end of
the scenario `end` cancels what is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar

# ruff: noqa: SLF001 - what a loop is about to run is its own; asyncio has no other way to hold it back
Result = TypeVar("Result")

TASKS_PRUNED_AT: Final = 256
_CURRENT: ContextVar[SimulatedProcess | None] = ContextVar("simulated process", default=None)


class SimulatedProcess:
    """Some tasks of the running loop, and all that they start.

    Attributes:
        steps: how many callbacks it has run.
        is_stopped: it runs none now.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[Any]] = []
        self._held: list[asyncio.Handle] = []
        self._stop_at: int | None = None
        self._told: Callable[[], object] = lambda: None
        _admit_by_process(self._loop)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin a task in it."""
        context = copy_context()
        context.run(_CURRENT.set, self)
        return self._loop.create_task(work, context=context)

    def stop(self) -> None:
        """Let it take no further step."""
        self.is_stopped = True

    def stop_after(self, steps: int, told: Callable[[], object]) -> None:
        """Stop it when it has taken so many steps more; then somebody outside is told."""
        self._stop_at, self._told = self.steps + steps, told

    def go_on(self) -> None:
        """Let it take its steps again, those that have become due meanwhile first."""
        self.is_stopped, self._stop_at = False, None
        held, self._held = self._held, []
        self._loop._ready.extend(held)  # type: ignore[attr-defined]

    async def end(self) -> None:
        """Cancel all that is left, whatever it does about that."""
        self.go_on()
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)

    def own(self, task: asyncio.Task[Any]) -> None:
        """A task was begun in it."""
        self._tasks.append(task)
        if len(self._tasks) > TASKS_PRUNED_AT:
            self._tasks = [each for each in self._tasks if not each.done()]

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether a callback of it may run now; if not, it is kept."""
        if not self.is_stopped and self.steps == self._stop_at:
            self.stop()
            self._loop.call_soon(self._told, context=Context())
        if self.is_stopped:
            self._held.append(handle)
            return False
        self.steps += 1
        return True


async def outside(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Do work in no process, like a server at the other end: it goes on while the caller's process is stopped.

    A caller that is cancelled has the work cancelled, and waits for its end.
    """
    if _CURRENT.get() is None:
        return await work()
    task = begun_outside(work())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise


def begun_outside(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """A task in no process; nobody need wait for it."""
    task = asyncio.get_running_loop().create_task(work, context=Context())
    task.add_done_callback(_look)
    return task


def _look(task: asyncio.Task[Any]) -> None:
    """What a task raised after its caller was gone is of no interest."""
    if not task.cancelled():
        task.exception()


class _Turns(deque[asyncio.Handle]):
    """The ready callbacks of a loop; in the place of one whose process is stopped comes one that does nothing."""

    def __init__(self, ready: deque[asyncio.Handle], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(ready)
        self._nothing = asyncio.Handle(int, (), loop)
        self._nothing.cancel()

    def popleft(self) -> asyncio.Handle:
        handle = super().popleft()
        process = handle._context.get(_CURRENT)  # type: ignore[attr-defined]
        return handle if process is None or process.admits(handle) else self._nothing


def _admit_by_process(loop: Any) -> None:
    if not isinstance(loop._ready, _Turns):
        loop._ready = _Turns(loop._ready, loop)
        loop.set_task_factory(_begun)


def _begun(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result], context: Context | None = None
) -> asyncio.Task[Result]:
    task = asyncio.Task(work, loop=loop, context=context)
    process = _CURRENT.get() if context is None else context.get(_CURRENT)
    if process is not None:
        process.own(task)
    return task
