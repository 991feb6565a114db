"""JSON files, read strictly: each fault with its line or path, and nothing of a faulty file is used."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from holdfast.errors import HoldfastError

FILE_BYTES_MAX = 4 * 1024 * 1024
FILES_MAX = 20_000
INPUT_BYTES_MAX = 256 * 1024 * 1024
DEPTH_MAX = 128
"""Levels of lists and objects: as many as the largest limit of documents, and few enough for any recursion."""

Shape = TypeVar("Shape")
_BYTE = re.compile(r"\(byte (\d+)\)")
_SHAPE_FAULT = re.compile(r"(?s)(?P<reason>.*?)(?: - at `\$?\.?(?P<place>.*)`)?\Z")


class InputError(HoldfastError):
    """The input as a whole cannot be used; the message is one sentence."""


class InputFileError(HoldfastError):
    """Why a file was not imported.

    Attributes:
        path: relative to the input directory.
        reason: in words.
        line: from 1, where the fault is one of syntax.
        place: path inside the document, where the fault is one of shape.
    """

    def __init__(self, path: str, reason: str, *, line: int | None = None, place: str | None = None) -> None:
        self.path = path
        self.reason = reason
        self.line = line
        self.place = place
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {f'{self.place}: ' if self.place else ''}{self.reason}"


class JsonFile(msgspec.Struct, frozen=True):
    """A well-formed file.

    Attributes:
        path: relative to the input directory, with `/`.
        value: what it holds.
        repeated: keys that stand twice in one object; JSON leaves open which counts, here the last one does.
    """

    path: str
    value: object
    repeated: tuple[str, ...] = ()


def json_paths(root: Path, folder: str) -> Iterator[tuple[str, Path]]:
    """Every ``*.json`` below `root/folder`: its path relative to `root`, and itself, in sorted order.

    Links to directories are not followed, so a loop cannot be entered.

    Raises:
        InputError: more files or bytes than an input may have.
    """
    found = sorted(_walk(root / folder), key=lambda path: path.relative_to(root).parts)
    if len(found) > FILES_MAX:
        raise InputError(f"{root / folder} holds {len(found)} JSON files; the demo takes at most {FILES_MAX}")
    size = sum(path.stat().st_size for path in found if path.is_file())
    if size > INPUT_BYTES_MAX:
        raise InputError(f"{root / folder} holds {size} bytes of JSON; the demo takes at most {INPUT_BYTES_MAX}")
    for path in found:
        yield printable(path.relative_to(root).as_posix()), path


def _walk(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names if name.endswith(".json"))


def printable(text: str) -> str:
    """The text with bytes that are not UTF-8 (they occur in file names) written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_json(path: str, file: Path) -> JsonFile:
    """Read one file.

    Raises:
        InputFileError: it cannot be read, is too large, or is not JSON.
    """
    try:
        # Without waiting: the opening of a pipe would last until somebody writes into it.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputFileError(path, "is no regular file")
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InputFileError(path, f"cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise InputFileError(path, f"has {max(found.st_size, len(data))} bytes; at most {FILE_BYTES_MAX}")
    return parse_json(path, data)


def parse_json(path: str, data: bytes) -> JsonFile:
    """Decode a file's bytes.

    Raises:
        InputFileError: not UTF-8, not JSON (NaN is not), nested too deeply, or half a surrogate pair.
    """
    repeated: list[str] = []
    try:
        value = _decode(data, repeated)
    except (ValueError, RecursionError) as error:
        raise _fault_of(path, data, error) from error
    if (depth := _depth(value)) > DEPTH_MAX:
        raise InputFileError(path, f"nests {depth} levels deep; at most {DEPTH_MAX}")
    return JsonFile(path, value, tuple(repeated))


def _decode(data: bytes, repeated: list[str]) -> object:
    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(sorted(name for name, count in counts.items() if count > 1))
        return found

    value: object = json.loads(data.decode("utf-8-sig"), object_pairs_hook=collect, parse_constant=_refuse)
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair decodes, and nothing can store it
    return value


def _depth(value: object) -> int:
    """Levels of lists and objects, without recursion."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _fault_of(path: str, data: bytes, error: ValueError | RecursionError) -> InputFileError:
    match error:
        case json.JSONDecodeError():
            return InputFileError(path, f"{error.msg.removesuffix(' at')} (column {error.colno})", line=error.lineno)
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return InputFileError(path, f"byte 0x{error.object[error.start]:02x} is not UTF-8", line=line)
        case UnicodeEncodeError():
            return InputFileError(path, "holds half of a surrogate pair, which is not text")
        case RecursionError():
            return InputFileError(path, "nests too deeply to be read")
        case _NotJsonError():
            return InputFileError(path, f"{error} is not JSON", line=_line_of_first_fault(data))
        case _:
            return InputFileError(path, f"cannot be decoded: {error}")


class _NotJsonError(ValueError):
    """NaN or an infinity: Python's decoder would take it."""


def _refuse(name: str) -> NoReturn:
    raise _NotJsonError(name)


def _line_of_first_fault(data: bytes) -> int | None:
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        found = _BYTE.search(str(error))
        return data.count(b"\n", 0, int(found[1])) + 1 if found else None
    return None


def convert(path: str, value: object, shape: type[Shape], *, place: str = "") -> Shape:
    """The value as `shape`.

    Args:
        path: the file, for the fault.
        value: decoded JSON.
        shape: a struct that names what is read; other fields are left alone.
        place: of the value inside the file, where it is not the whole.

    Raises:
        InputFileError: with the path inside the document.
    """
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        found = _SHAPE_FAULT.match(str(error))
        inner = (found["place"] or "") if found else ""
        reason = found["reason"] if found else str(error)
        full = ".".join(part for part in (place, inner) if part).replace(".[", "[")
        raise InputFileError(path, reason[:1].lower() + reason[1:], place=full or "document") from error
