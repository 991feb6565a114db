"""A conflict between a run and its child that a person is asked to decide."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

from holdfast.documents.base import Document
from holdfast.documents.run_snapshot import ContextVariable


class ReviewStatus(StrEnum):
    """Of a review."""

    OPEN = "open"
    RESOLVED = "resolved"
    TIMED_OUT = "timed_out"


class ReviewPolicy(StrEnum):
    """What the run does while a review is open."""

    WAIT = "wait"
    """Its merge waits."""
    GO_ON = "go_on"
    """It goes on with the parent's value, and the decision reaches it later."""


class ReviewChoice(StrEnum):
    """What was decided."""

    PARENT = "parent"
    """The parent's variable stays as it is."""
    CHILD = "child"
    """The child's takes its place."""
    VALUE = "value"
    """Another one takes the place of both."""
    FALLBACK = "fallback"
    """Both are too large to be kept here: the fallback decides on them where they are merged."""


class Review(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A review; its id is the row's.

    Attributes:
        run_id: of the run that merges, and `child_run_id`: of the one that is merged.
        variable: its name.
        parent: the variable as the run had it when the review was opened; None: it had none.
        child: the variable as the child exported it. With the choice `FALLBACK` both are without their values.
        status: a `ReviewStatus`.
        policy: a `ReviewPolicy`, as it was when the review was opened.
        fallback: the `ConflictStrategy` that decides if nobody does.
        opened_at, deadline, resolved_at: by L3's clock. No deadline: it is open until somebody decides.
        opened_by: the server.
        choice: a `ReviewChoice`; None: it is open.
        resolved: the variable that takes the place of both; None: one of them stands, or it is open.
        resolved_by: who decided; of a review that timed out, the server.
        reason: why, in words.
        applied: the run has taken the decision over, after it had gone on without.
        overtaken: the run had written, or removed, the variable after the review was opened, and that stands.
        left_out: the decision came late and could not be opened, since its seal is broken; what the run has stands.
    """

    run_id: str
    child_run_id: str
    variable: str
    parent: ContextVariable | None = None
    child: ContextVariable
    status: str = ReviewStatus.OPEN.value
    policy: str = ReviewPolicy.WAIT.value
    fallback: str = "parent_wins"
    opened_at: dt.datetime | None = None
    opened_by: str = ""
    deadline: dt.datetime | None = None
    choice: str | None = None
    resolved: ContextVariable | None = None
    resolved_by: str = ""
    resolved_at: dt.datetime | None = None
    reason: str = ""
    applied: bool = False
    overtaken: bool = False
    left_out: bool = False
