"""What an error of the PostgreSQL driver means for the caller."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
from asyncpg.exceptions import InternalClientError

from holdfast.errors import (
    OutcomeUnknown,
    Overloaded,
    RowRefused,
    SerializationFailure,
    StorageFull,
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
# Errors that say that nothing of it took effect, and why; the first that fits counts.
_MEANINGS: Final[tuple[tuple[tuple[type[Exception], ...], type[TierError], str], ...]] = (
    ((asyncpg.QueryCanceledError, asyncpg.TooManyConnectionsError), TierUnavailable, ""),
    (
        (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedFunctionError),
        StorageNotReady,
        "; run `holdfast migrate`",
    ),
    ((asyncpg.DiskFullError,), StorageFull, "; free space on its disk"),
    ((asyncpg.InsufficientResourcesError,), Overloaded, ""),
    ((asyncpg.SerializationError, asyncpg.DeadlockDetectedError), SerializationFailure, ""),
)
# What a constraint, an index or a trigger says of a row, in the server's classes and those left to users.
_OF_A_ROW: Final = re.compile(r"(09|2[0-37]|3[89]|44|54|P0|[6-9I-OQ-WYZ].)...\Z")
_OF_A_STATEMENT: Final = "42"
"""Of ours it says nothing of any row; of one inside a user's function it does."""
_NO_RIGHT: Final = asyncpg.InsufficientPrivilegeError
"""A right that is missing is missing for all rows."""


@contextlib.contextmanager
def mapped(what: str, *, writes: bool = False, rows: bool = False) -> Iterator[None]:
    """Turn the driver's errors into Holdfast's, cause chained.

    Args:
        what: the operation, for the message.
        writes: a lost connection leaves the outcome unknown, since the statement commits by itself.
        rows: it writes rows, and the error may be of one of them.
    """
    try:
        yield
    except TierError:
        raise
    except (*_LOST, asyncpg.PostgresError) as fault:
        raise meaning(fault, what, writes=writes, rows=rows) from fault


def meaning(fault: BaseException, what: str, *, writes: bool = False, rows: bool = False) -> TierError:
    """What an error of the driver says, as one of Holdfast's; arguments are those of `mapped`."""
    told = f"L3: {what}: {_words(fault)}"
    if isinstance(fault, _LOST):
        return OutcomeUnknown(told) if writes else TierUnavailable(told)
    for faults, error, advice in _MEANINGS:
        if isinstance(fault, faults):
            return error(told + advice)
    sqlstate = getattr(fault, "sqlstate", None)
    other = RowRefused if rows and sqlstate and _is_of_a_row(fault) else TierError
    return other(f"{told} (SQLSTATE {sqlstate})" if sqlstate else told)


def _is_of_a_row(fault: Any) -> bool:
    if fault.sqlstate.startswith(_OF_A_STATEMENT):
        return bool(fault.context) and not isinstance(fault, _NO_RIGHT)
    return _OF_A_ROW.match(fault.sqlstate) is not None


def _words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
