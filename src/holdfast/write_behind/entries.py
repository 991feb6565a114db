"""Entries of a journal, and their bytes (pure).

Format 1, big-endian:

    ====== ==== ===========================================================
    offset size field
    ====== ==== ===========================================================
    0      1    format (1)
    1      1    flags: 1 encrypted, which this version does not read
    2      4    CRC-32 of the entry's number in 8 bytes, bytes 0-1 and 6 on
    6      ...  the entry as MessagePack, values in it as documents are stored; who owned the row stands last, and is
                absent from what older versions wrote
    ====== ==== ===========================================================

Every later format must keep bytes 0-5. The checksum covers the number, so that an entry that came to stand under
another one is noticed. A value is stored by the type at its place, like a document of its own: tagged, checked when it
is read, and of no type that a document could not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from isal.isal_zlib import crc32
from msgspec import Meta

from holdfast.documents import Document, Limits, decode, encode
from holdfast.errors import CorruptDocument, InvalidDocument, SchemaTooNew, UnknownKind
from holdfast.keys import ID_BYTES_MAX, Key
from holdfast.kinds import Kind
from holdfast.write_behind.checking import FRAME_BYTES_MAX, OPERATIONS_MAX, misfit
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set
from holdfast.write_behind.typed_values import (
    FINGERPRINT_BYTES,
    annotation_of,
    decode_as,
    encode_as,
    rebuilt,
    values_of,
)

FORMAT: Final = 1
ENCRYPTED: Final = 1
HEADER_BYTES: Final = 6

_HEADER = struct.Struct(">BBI")
_SEQ = struct.Struct(">Q")
_UNBOUND: Final = Limits(bytes_max=1 << 40, depth_max=128)


class Entry(msgspec.Struct, frozen=True):
    """A write that was accepted and is to be decided.

    Attributes:
        seq: its number in its journal; the two are its name.
        operations: `checked` ones, applied all or none.
        birth: the birth version of the row it was addressed to; 0: there was none, or only `base_version` is known.
        base_version: the version of the committed row that the writer saw; 0: no row.
        default: the document to begin from if there is no row; None: there has to be one.
        expects: for each `Set` the fingerprint of what the writer saw in its place; None for other operations.
        schema: of the class that the operations were checked for.
        accepted_at_ms: since 1970, by the writer's clock; to be shown, and never to decide by.
        owner: the epoch of the document that its writer owned (rule S3); 0: it was written in nobody's name.
    """

    seq: int
    key: Key
    operations: tuple[Operation, ...]
    birth: int
    base_version: int
    default: Document | None
    expects: tuple[bytes | None, ...]
    schema: int
    accepted_at_ms: int
    owner: int = 0


_Version = Annotated[int, Meta(ge=0)]
_Keys = tuple[str, ...]


class StoredOperation(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An operation with its values as they are stored."""

    sort: Annotated[int, Meta(ge=0, le=4)]
    path: _Keys
    item: str | None
    inside: _Keys
    values: list[tuple[_Keys, bytes]]
    expects: Annotated[bytes, Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)] | None


class StoredEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry as far as it can be read without the class of its kind."""

    kind: str
    id: Annotated[str, Meta(max_length=ID_BYTES_MAX)]
    birth: _Version
    base_version: _Version
    schema: Annotated[int, Meta(ge=1)]
    accepted_at_ms: int
    default: bytes | None
    operations: Annotated[list[StoredOperation], Meta(max_length=OPERATIONS_MAX)]
    owner: _Version = 0


class _Begun(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a `StoredEntry` begins."""

    kind: str
    id: Annotated[str, Meta(max_length=ID_BYTES_MAX)]


SORTS: Final[tuple[type[Operation], ...]] = (Set, Delete, Append, Increment, Merge)
"""By their numbers in what is stored."""
_CODES: Final = {sort: code for code, sort in enumerate(SORTS)}
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredEntry)
_key_decoder = msgspec.msgpack.Decoder(_Begun)


def encode_entry(entry: Entry, kinds: Mapping[str, Kind[Any]]) -> bytes:
    """The entry as it stands in the journal.

    Raises:
        InvalidDocument: an operation was not `checked` for the kind of its key.
    """
    document_type = kinds[entry.key.kind].document
    stored = StoredEntry(
        entry.key.kind,
        entry.key.id,
        entry.birth,
        entry.base_version,
        entry.schema,
        entry.accepted_at_ms,
        None if entry.default is None else encode(entry.default, _UNBOUND),
        [
            _stored(document_type, operation, expects)
            for operation, expects in zip(entry.operations, entry.expects, strict=True)
        ],
        entry.owner,
    )
    body = _encoder.encode(stored)
    return _HEADER.pack(FORMAT, 0, _checksum(entry.seq, FORMAT, 0, body)) + body


def decode_entry(data: bytes, seq: int, kinds: Mapping[str, Kind[Any]], limits: Limits) -> Entry:
    """Read an entry back.

    Args:
        seq: the number it stands under.
        limits: of the documents; an entry has at most a default, the values of a patch and what frames them.

    Raises:
        SchemaTooNew: a newer version wrote it: its format, its kind's schema, or a value's. Not corruption.
        UnknownKind: this server was not given its kind. Not corruption either.
        CorruptDocument: damaged, too large, encrypted, or not fit for its kind.
    """
    what, stored = _name(seq), stored_entry(data, seq, limits)
    kind = kinds.get(stored.kind)
    if kind is None:
        raise UnknownKind(f"{what} is of kind {stored.kind!r:.60}: connect(kinds=[...]) takes own kinds")
    if stored.schema > kind.document.SCHEMA:
        raise SchemaTooNew(what, found=stored.schema, known=kind.document.SCHEMA)
    return Entry(
        seq,
        Key(stored.kind, stored.id),
        tuple(_operation(kind.document, each, what) for each in stored.operations),
        stored.birth,
        stored.base_version,
        None if stored.default is None else decode(kind.document, stored.default, what=f"the default of {what}"),
        tuple(each.expects for each in stored.operations),
        stored.schema,
        stored.accepted_at_ms,
        stored.owner,
    )


def stored_entry(data: bytes, seq: int, limits: Limits) -> StoredEntry:
    """What any entry says of itself; raises as `decode_entry`, but for what only its kind tells."""
    what = _name(seq)
    body = _body(data, seq, what, 2 * (limits.bytes_max + FRAME_BYTES_MAX))
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as fault:
        raise CorruptDocument(f"{what} does not hold an entry: {fault}") from fault


def key_of(data: bytes, seq: int, limits: Limits) -> Key:
    """The key of any entry, at a small part of the cost of decoding it; raises as `stored_entry`."""
    what = _name(seq)
    try:
        begun = _key_decoder.decode(_body(data, seq, what, 2 * (limits.bytes_max + FRAME_BYTES_MAX)))
    except msgspec.MsgspecError as fault:
        raise CorruptDocument(f"{what} does not hold an entry: {fault}") from fault
    return Key(begun.kind, begun.id)


def _name(seq: int) -> str:
    """An entry, in messages."""
    return f"journal entry {seq}"


def _body(data: bytes, seq: int, what: str, bytes_max: int) -> bytes:
    """What is behind the header, if all of it is as it was written."""
    if not HEADER_BYTES < len(data) <= bytes_max:
        raise CorruptDocument(f"{what} has {len(data)} bytes, which no entry has")
    found, flags, checksum = _HEADER.unpack_from(data)
    body = data[HEADER_BYTES:]
    if _checksum(seq, found, flags, body) != checksum:
        raise CorruptDocument(f"{what}: its checksum does not match")
    if found != FORMAT:
        raise SchemaTooNew(what, found=found, known=FORMAT)
    if flags & ENCRYPTED:
        raise CorruptDocument(f"{what}: encrypted with a key that this server does not have")
    return body


def _checksum(seq: int, found: int, flags: int, body: bytes) -> int:
    return int(crc32(body, crc32(bytes((found, flags)), crc32(_SEQ.pack(seq)))))


def _stored(document_type: type[Document], operation: Operation, expects: bytes | None) -> StoredOperation:
    path, item, inside = operation.place
    values = [
        (keys, encode_as(annotation, value, _UNBOUND))
        for keys, annotation, value in values_of(document_type, operation)
    ]
    return StoredOperation(_CODES[type(operation)], path, item, inside, values, expects)


def _operation(document_type: type[Document], stored: StoredOperation, what: str) -> Operation:
    sort, place = SORTS[stored.sort], Place(stored.path, stored.item, stored.inside)
    try:
        values = []
        for keys, data in stored.values:
            annotation = annotation_of(document_type, sort, place, keys)
            if annotation is None:
                raise CorruptDocument(f"{what}: there is nothing at {place} for a value of a {sort.__name__}")
            values.append((keys, decode_as(annotation, data, f"{what} at {place}")))
        operation = rebuilt(sort, place, values)
        reason = misfit(document_type, operation)
    except (InvalidDocument, ValueError) as fault:
        raise CorruptDocument(f"{what} does not fit its kind: {fault}") from fault
    if reason is not None:
        raise CorruptDocument(f"{what} does not fit its kind: {place} {reason}")
    return operation
