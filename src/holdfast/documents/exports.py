"""What a completed run leaves behind for others: values in the persistent store, and those on their way outside."""

from __future__ import annotations

import datetime as dt
from typing import Any

from holdfast.documents.base import Document
from holdfast.documents.vocabulary import DataSensitivity


class ExportedValue(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A value that a run has left in the persistent store; its id is ``<run id>/<key>``.

    Attributes:
        key: of the variable.
        value: a free value, as the transformation made it.
        sensitivity: a `DataSensitivity`: that of the variable.
        transformation: the name of what made it; None: it is as the run had it.
        exported_at: when the run completed.
    """

    run_id: str
    routine_id: str
    key: str
    value: Any = None
    swarm_id: str | None = None
    sensitivity: str = DataSensitivity.INTERNAL.value
    transformation: str | None = None
    exported_at: dt.datetime | None = None


class Delivery(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A value that is to be brought to an external system; its id is ``<run id>/<exporter>/<key>``.

    How far that is, L3 notes beside the document, which never changes.

    Attributes:
        exporter: who brings it, by the name registered with `connect`.
        key, value, sensitivity, transformation, exported_at: as of an `ExportedValue`.
    """

    run_id: str
    routine_id: str
    key: str
    exporter: str
    value: Any = None
    swarm_id: str | None = None
    sensitivity: str = DataSensitivity.INTERNAL.value
    transformation: str | None = None
    exported_at: dt.datetime | None = None
