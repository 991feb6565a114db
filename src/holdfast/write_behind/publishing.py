"""Brings what a flush committed to this server's caches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION
from holdfast.write_behind.flushing import Settled
from holdfast.writing import Begun, Filled, Writer


class FlushPublisher:
    """Tells the caches of flushes, as a write of the same rows would be told."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def begin(self, keys: Iterable[Key]) -> Begun:
        """A flush of these keys begins."""
        return self._writer.begin({key.kind for key in keys})

    def publish(self, settled: Mapping[Key, Settled], begun: Begun) -> None:
        """These rows are in effect."""
        rows = [Filled(key, each.document, each.version, each.tags, each.birth) for key, each in settled.items()]
        history = [Filled(key, None, version) for each in settled.values() for key, version in each.history.items()]
        self._writer.publish(begun, rows + history)

    def doubt(self, keys: Iterable[Key]) -> None:
        """These rows may have changed."""
        self._writer.tell(dict.fromkeys(keys, ANY_VERSION))

    def tell(self, versions: Mapping[Key, int]) -> None:
        """Rows of these versions are in effect; another server's journal said so."""
        self._writer.adopt()
        self._writer.tell(versions)
