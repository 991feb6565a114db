"""What an error of the PostgreSQL driver means for the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg
from asyncpg.exceptions import InternalClientError

from holdfast.errors import (
    OutcomeUnknown,
    Overloaded,
    SerializationFailure,
    StorageNotReady,
    TierError,
    TierUnavailable,
)

# Errors that say nothing of whether a commit took place: the connection or the server went away meanwhile.
_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    InternalClientError,  # the driver's own confusion when the backend dies in the middle of a reply
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
_NOT_READY: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedFunctionError,
)
_FULL: Final = (asyncpg.InsufficientResourcesError,)
_IN_THE_WAY: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


@contextlib.contextmanager
def mapped(what: str, *, writes: bool = False) -> Iterator[None]:
    """Turn the driver's errors into Holdfast's, cause chained.

    Args:
        what: the operation, for the message.
        writes: a lost connection leaves the outcome unknown, since the statement commits by itself.
    """
    try:
        yield
    except TierError:
        raise
    except (*_LOST, asyncpg.PostgresError) as fault:
        raise meaning(fault, what, writes=writes) from fault


def meaning(fault: BaseException, what: str, *, writes: bool = False) -> TierError:
    """What an error of the driver says, as one of Holdfast's; arguments are those of `mapped`."""
    told = f"L3: {what}: {_words(fault)}"
    if isinstance(fault, _LOST):
        return OutcomeUnknown(told) if writes else TierUnavailable(told)
    if isinstance(fault, asyncpg.QueryCanceledError):
        return TierUnavailable(told)
    if isinstance(fault, _NOT_READY):
        return StorageNotReady(f"{told}; run `holdfast migrate`")
    if isinstance(fault, _FULL):
        return Overloaded(told)
    if isinstance(fault, _IN_THE_WAY):
        return SerializationFailure(told)
    sqlstate = getattr(fault, "sqlstate", None)
    return TierError(f"{told} (SQLSTATE {sqlstate})" if sqlstate else told)


def _words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
