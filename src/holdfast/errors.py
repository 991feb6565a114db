"""Every error Holdfast raises, one tree.

A missing key is not an error (`get` returns None). A tier that failed is one, and never looks like a missing
key.
"""

from __future__ import annotations

from typing import Any, TypeVar

Error = TypeVar("Error", bound="HoldfastError")


class HoldfastError(Exception):
    """Base of all errors raised by Holdfast.

    Each can be copied and sent to another process, with its attributes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way calls the class with the message alone, which those with other arguments refuse.
        return _restored, (type(self), self.args), self.__dict__


class SettingsError(HoldfastError):
    """A setting has a value that cannot work; the message names the setting and what it takes."""


class KeyRetired(SettingsError):
    """A master key was retired by a rotation, and wraps nothing any more.

    Attributes:
        master_id: its id.
    """

    def __init__(self, master_id: str) -> None:
        """Say which, and what to do."""
        self.master_id = master_id
        super().__init__(f"the master key {master_id} was retired by a rotation: name another first in master_keys")


class InvalidKey(HoldfastError, ValueError):
    """An id or a kind's name breaks the rules of `holdfast.keys`."""


class InvalidDocument(HoldfastError, ValueError):
    """A document was refused before anything was written.

    Attributes:
        path: where the fault is, from the document's root, as in ``blackboard[3].value.price``; empty for the
            root.
        reason: the fault in words.
    """

    def __init__(self, path: str, reason: str) -> None:
        """Name the fault and its place."""
        self.path = path
        self.reason = reason
        super().__init__(f"{path or 'document'}: {reason}")


class DocumentTooLarge(InvalidDocument):
    """The document's encoded size is over `document_bytes_max`."""


class DocumentTooDeep(InvalidDocument):
    """The document nests deeper than `document_depth_max`."""


class InvalidTopic(HoldfastError, ValueError):
    """A topic, a pattern or a group's name breaks the rules of `holdfast.invalidation.topics`."""


class InvalidEvent(HoldfastError, ValueError):
    """An event was refused before it was published.

    Attributes:
        path: where the fault is, from the root of the event's data; empty for the root.
        reason: the fault in words.
    """

    def __init__(self, path: str, reason: str) -> None:
        """Name the fault and its place."""
        self.path = path
        self.reason = reason
        super().__init__(f"{path or 'event data'}: {reason}")


class CorruptDocument(HoldfastError):
    """Stored bytes do not decode as the document they should hold (checksum, format or shape)."""


class SchemaTooNew(HoldfastError):
    """The stored document was written by a newer version of its schema; update this server. Not corruption.

    Attributes:
        found: the schema stored.
        known: the newest schema that this server reads.
    """

    def __init__(self, what: str, *, found: int, known: int) -> None:
        """Say which document, and both schema numbers."""
        self.found = found
        self.known = known
        super().__init__(
            f"{what} has schema {found}, this server reads up to {known}: update this server before it reads it"
        )


class InvalidOperation(InvalidDocument):
    """An operation of a `patch` does not fit its kind of document: no such path, or a value of another type."""


class UnknownKind(HoldfastError):
    """What is stored is of a kind that this server was not given: ``connect(kinds=[...])``. Not corruption."""


class NotFound(HoldfastError, LookupError):
    """`update` or `patch` was called without `default` on a key that does not exist."""


class Conflict(HoldfastError):
    """The row is not at the version the write expected; nothing was written.

    Attributes:
        key: the `Key` that was written.
        expected: the version the write asked for; 0 means "must not exist".
        actual: the version found; 0 means "does not exist", None "not known".
    """

    def __init__(self, key: Any, *, expected: int, actual: int | None) -> None:
        """Say which key, and both versions."""
        self.key = key
        self.expected = expected
        self.actual = actual
        found = {None: "another version", 0: "nothing"}.get(actual, f"version {actual}")
        wanted = "nothing" if expected == 0 else f"version {expected}"
        super().__init__(f"{key}: expected {wanted}, found {found}; read it again and decide anew")


class Refused(HoldfastError):
    """A write that was accepted before was decided otherwise: it is not in effect, and never will be by itself.

    Attributes:
        reason: a `RefusalReason`'s value.
        detail: in words.
    """

    def __init__(self, key: Any, reason: str, detail: str) -> None:
        """Say which key, and why."""
        self.key = key
        self.reason = reason
        self.detail = detail
        super().__init__(f"{key}: the write was refused ({reason}): {detail}")


class NotOwner(HoldfastError):
    """Another server has taken over what this one wrote for; what it still tries to decide has no effect."""


class ReadOnlyVariable(HoldfastError, TypeError):
    """A run's own variable was declared not mutable, and cannot be written or deleted.

    Attributes:
        run_id: of the run.
        variable: its name.
    """

    def __init__(self, run_id: str, variable: str) -> None:
        """Say which run and variable."""
        self.run_id = run_id
        self.variable = variable
        super().__init__(f"run {run_id}: the variable {variable!r} was set with mutable=False, and stays as it is")


class LimitExceeded(HoldfastError):
    """A run would pass one of its limits; nothing was changed.

    Attributes:
        run_id: of the run.
        limit: what is limited, in a word.
        value: what it would have become, and `allowed` the most it may be.
        setting: which raises it.
    """

    def __init__(self, run_id: str, limit: str, *, value: int, allowed: int, setting: str) -> None:
        """Say which run, which limit, and which setting raises it."""
        self.run_id = run_id
        self.limit = limit
        self.value = value
        self.allowed = allowed
        self.setting = setting
        super().__init__(f"run {run_id}: {value} {limit} would be over the limit of {allowed}; setting {setting}")


class KeyMissing(HoldfastError):
    """A secret value cannot be sealed or opened here: a key is missing; the message names the key and the setting."""


class SealBroken(HoldfastError):
    """A sealed value was changed, or belongs to another variable, run, kind or version than it was found in."""


class AlreadyDecided(HoldfastError):
    """It was decided before, and stays as it was decided; nothing was changed."""


class ReviewSettled(AlreadyDecided):
    """The review was decided before, and stays as it was decided; nothing was changed.

    Attributes:
        review_id: of the review.
        status: `resolved`, or `timed_out`: nobody had answered.
        by: who decided; of one that timed out, which server.
        at: when, by L3's clock.
        choice: `parent`, `child`, `value`, or `fallback`: it was too large to be asked about.
    """

    def __init__(self, review_id: str, *, status: str, by: str, at: Any, choice: str | None) -> None:
        """Say which review, who decided it, and for what."""
        self.review_id = review_id
        self.status = status
        self.by = by
        self.at = at
        self.choice = choice
        how = "was resolved" if status == "resolved" else "had timed out and was decided"
        super().__init__(f"review {review_id} {how} by {by} at {at}, for: {choice}")


class EscalationSettled(AlreadyDecided):
    """The escalation was decided before, and stays as it was decided; nothing was changed.

    Attributes:
        escalation_id: of the escalation.
        status: `resolved`, or `timed_out`: nobody had answered.
        by: who decided; of one that timed out, which server.
        at: when, by L3's clock.
        decision: what was decided; of one that timed out, the fallback.
    """

    def __init__(self, escalation_id: str, *, status: str, by: str, at: Any, decision: str | None) -> None:
        """Say which escalation, who decided it, and how."""
        self.escalation_id = escalation_id
        self.status = status
        self.by = by
        self.at = at
        self.decision = decision
        how = "was resolved" if status == "resolved" else "had timed out and was left to its fallback"
        super().__init__(f"escalation {escalation_id} {how} by {by} at {at}: {decision}")


class RunOver(HoldfastError):
    """The run has ended, or was paused: nothing can be written to it any more; `resume` or `fork` it."""


class ContextCorrupt(HoldfastError):
    """No base of a run's context can be read any more: it cannot be restored, and is never taken to be empty.

    Attributes:
        run_id: of the run.
        snapshots: ids of those that were tried; empty: no base is left to try.
    """

    def __init__(self, run_id: str, snapshots: tuple[str, ...]) -> None:
        """Say which run, and what was tried."""
        self.run_id = run_id
        self.snapshots = snapshots
        tried = ", ".join(snapshots[:8]) + (", ..." if len(snapshots) > 8 else "")
        why = f"verifies (tried: {tried})" if snapshots else "is left: they were dropped with their months, or pruned"
        super().__init__(f"run {run_id}: no base of its context {why}")


class AppendOnly(HoldfastError):
    """The kind only takes new ids: its documents are history and cannot be changed or deleted."""


class TierError(HoldfastError):
    """A tier did not do what was asked. The cause is chained."""


class TierUnavailable(TierError):
    """A tier could not be reached, or did not answer in time. Nothing is known to be written."""


class StaleUnavailable(TierUnavailable):
    """L3 cannot be asked, and what is cached may be older than the caller, or the kind, allows (`max_stale`)."""


class Overloaded(TierError):
    """A queue, or a server's memory, is full, or all connections are in use; nothing was done. Slow down, try again."""


class OutcomeUnknown(TierError):
    """A write may be in effect or not: read before repeating it.

    The connection was lost after it was sent, or SQL of the user's ended its transaction.
    """


class Undecided(OutcomeUnknown):
    """A write was accepted and did not reach the durability asked for in time. It is not given up: it will be decided.

    Attributes:
        receipt: its `Receipt`, to be awaited further with `reached`; None in a copy from another process.
    """

    def __init__(self, message: str, receipt: Any = None) -> None:
        """Say what was waited for."""
        self.receipt = receipt
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # A receipt belongs to its process.
        return _restored, (type(self), self.args), {**self.__dict__, "receipt": None}


class SerializationFailure(TierError):
    """Other transactions were in the way, or in a deadlock; nothing took effect. Run it again, as `transact` does."""


class RowRefused(TierError):
    """A constraint, index or trigger of L3 refuses a row; nothing of the transaction took effect, nor will it later.

    Which row is not known: writing fewer at once tells.
    """


class StorageFull(TierError):
    """L3's disk is full: nothing of the transaction took effect. Reads go on; writes do once there is room again.

    Accepted writes are kept, and tried again until then.
    """


class StorageNotReady(TierError):
    """The database lacks Holdfast's schema, or holds another version of it: run `holdfast migrate`."""


class InvalidToken(HoldfastError, ValueError):
    """A token, of a scope or a watch, is none, or was cut or changed on its way."""


class IncarnationChanged(HoldfastError):
    """L3 crashed, failed over or was restored: what a scope, or its token, has seen may not exist any more.

    Begin a new scope without a token.
    """


class ServerStartError(HoldfastError):
    """An embedded server did not start; the message says which, why, and where its log is."""


class WrongEventLoop(HoldfastError):
    """The store was opened in another event loop: each loop needs a `connect()` of its own."""


class Closed(HoldfastError):
    """The state store is not open: it was not entered yet, or is already closed."""


def _restored(error: type[Error], args: tuple[Any, ...]) -> Error:
    """An error as it was, but for its attributes: made without its constructor, which would word the message anew."""
    return error.__new__(error, *args)
