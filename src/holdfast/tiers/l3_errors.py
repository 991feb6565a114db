"""What an error of the PostgreSQL driver means for the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg
from asyncpg.exceptions import InternalClientError

from holdfast.errors import OutcomeUnknown, Overloaded, StorageNotReady, TierError, TierUnavailable

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
    except _LOST as fault:
        lost = OutcomeUnknown if writes else TierUnavailable
        raise lost(f"L3: {what}: {_words(fault)}") from fault
    except asyncpg.QueryCanceledError as fault:
        raise TierUnavailable(f"L3: {what}: {_words(fault)}") from fault
    except _NOT_READY as fault:
        raise StorageNotReady(f"L3: {what}: {_words(fault)}; run `holdfast migrate`") from fault
    except _FULL as fault:
        raise Overloaded(f"L3: {what}: {_words(fault)}") from fault
    except asyncpg.PostgresError as fault:
        raise TierError(f"L3: {what}: {_words(fault)} (SQLSTATE {fault.sqlstate})") from fault


def _words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
