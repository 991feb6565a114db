"""The thread of one subscription whose handler is no async function.

It is a daemon: a handler that never returns cannot be stopped, and must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, Final

NAME: Final = "holdfast-events"


class HandlerThread:
    """Makes one call after the other, in a thread that begins with the first one.

    One call at most waits for the one before it: a further one takes its place, for nobody awaits that any more.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: tuple[Future[Any], Callable[[], Any]] | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Call a function in the thread, in the caller's context, unless the answer is cancelled before its turn."""
        done: Future[Any] = Future()
        with self._changed:
            self._waiting = (done, partial(copy_context().run, function, *args))
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
            self._thread.start()
        return asyncio.wrap_future(done)

    def stop(self) -> None:
        """Make no further call; the thread ends after the one it is at. May be called twice."""
        with self._changed:
            self._waiting, self._stopping = None, True
            self._changed.notify()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            _make(*call)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._stopping)
            call, self._waiting = self._waiting, None
            return call


def _make(done: Future[Any], function: Callable[[], Any]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as fault:  # noqa: BLE001 - whatever it is, it is the handler's, and the thread goes on
        done.set_exception(_raisable(fault))
    else:
        done.set_result(result)


def _raisable(fault: BaseException) -> Exception:
    """The same fault as one that a task can raise: some end the loop, or cannot pass through a future."""
    if isinstance(fault, Exception) and not isinstance(fault, StopIteration):
        return fault
    raised = RuntimeError(f"the handler raised {type(fault).__name__}")
    raised.__cause__ = fault
    return raised
