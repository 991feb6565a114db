"""Strict reading of the demo's input files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest

from holdfast.cli.demo import files
from holdfast.cli.demo.files import InputError, InputFileError, convert, json_paths, parse_json, read_json


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        pytest.param(b'{"a": 1,\n"b": }', 2, "Expecting value (column 6)", id="no value"),
        pytest.param(b'{"a":\n\n"x\ny"}', 3, "Invalid control character (column 3)", id="newline in text"),
        pytest.param(b'{"a": "\\d"}', 1, "Invalid \\escape (column 8)", id="escape"),
        pytest.param(b"", 1, "Expecting value (column 1)", id="empty"),
        pytest.param(b"[1]\n[2]", 2, "Extra data (column 1)", id="two documents"),
        pytest.param(b'\n{"a": "\xff"}', 2, "byte 0xff is not UTF-8", id="bytes"),
        pytest.param(b"\n\n[1, NaN]", 3, "NaN is not JSON", id="nan"),
        pytest.param(b'{"a": -Infinity}', 1, "-Infinity is not JSON", id="infinity"),
        pytest.param(b'["\\ud800"]', None, "holds half of a surrogate pair, which is not text", id="surrogate"),
        pytest.param(b"[" * 129 + b"]" * 129, None, "nests 129 levels deep; at most 128", id="levels"),
        pytest.param(b"[" * 100_000, None, "nests too deeply to be read", id="deep"),
    ],
)
def test_malformed_json_is_a_fault_with_its_line(data: bytes, line: int | None, reason: str) -> None:
    """Each way of not being JSON is refused with path, line and reason."""
    with pytest.raises(InputFileError) as caught:
        parse_json("routines/x.json", data)

    assert (caught.value.path, caught.value.line, caught.value.reason) == ("routines/x.json", line, reason)


def test_number_too_long_to_decode_is_a_fault() -> None:
    """An integer that Python refuses to decode is a fault of the file, not a crash."""
    with pytest.raises(InputFileError, match="cannot be decoded"):
        parse_json("x.json", b"1" * 5000)


def test_fault_reads_as_path_line_and_reason() -> None:
    """A fault's text begins with the path and line, as compilers write them."""
    assert str(InputFileError("a/b.json", "bad", line=7)) == "a/b.json:7: bad"
    assert str(InputFileError("a/b.json", "bad", place="steps[1]")) == "a/b.json: steps[1]: bad"


def test_repeated_keys_are_noted_and_the_last_counts() -> None:
    """A key that stands twice in one object is reported; the decoder's choice, the last, is kept."""
    file = parse_json("x.json", b'{"a": {"k": 1, "k": 2, "l": 3}}')

    assert file.value == {"a": {"k": 2, "l": 3}}
    assert file.repeated == ("k",)


def test_byte_order_mark_is_skipped() -> None:
    """A file that begins with a UTF-8 byte order mark is JSON all the same."""
    assert parse_json("x.json", b"\xef\xbb\xbf[1]").value == [1]


class _Inner(msgspec.Struct):
    size: int


class _Outer(msgspec.Struct):
    parts: list[_Inner]
    label: str = ""


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        ({"parts": [{"size": 1}, {"size": "2"}]}, "", "f.json: parts[1].size: expected `int`, got `str`"),
        ({}, "", "f.json: document: object missing required field `parts`"),
        ({"parts": []} | {"label": None}, "box", "f.json: box.label: expected `str`, got `null`"),
        ([1], "", "f.json: document: expected `object`, got `array`"),
    ],
)
def test_wrong_shape_is_a_fault_with_the_path_inside(value: object, place: str, message: str) -> None:
    """Well-formed JSON of another shape is refused with the path of the fault."""
    with pytest.raises(InputFileError) as caught:
        convert("f.json", value, _Outer, place=place)

    assert str(caught.value) == message


def test_paths_are_sorted_and_relative(tmp_path: Path) -> None:
    """Files come in the order of their paths, below the folder at any depth, and only JSON ones."""
    for name in ("b/z.json", "b/a.json", "a.json", "b/readme.md"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("{}")

    assert [path for path, _ in json_paths(tmp_path, "in")] == ["in/a.json", "in/b/a.json", "in/b/z.json"]


def test_link_to_own_parent_is_not_followed(tmp_path: Path) -> None:
    """A loop of directories is not entered."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{}")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)

    assert [path for path, _ in json_paths(tmp_path, "in")] == ["in/a.json"]


def test_file_name_that_is_not_text_is_written_out(tmp_path: Path) -> None:
    """A file name with bytes outside UTF-8 becomes a path that can be printed and stored."""
    (tmp_path / "in").mkdir()
    Path(f"{tmp_path}/in/\udcff.json").write_text("{}")

    assert [path for path, _ in json_paths(tmp_path, "in")] == ["in/\\udcff.json"]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files has a limit, and the refusal names both numbers."""
    monkeypatch.setattr(files, "FILES_MAX", 1)
    (tmp_path / "in").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "in" / name).write_text("{}")

    with pytest.raises(InputError, match="holds 2 JSON files; the demo takes at most 1"):
        list(json_paths(tmp_path, "in"))


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a folder has a limit."""
    monkeypatch.setattr(files, "INPUT_BYTES_MAX", 3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("[1,2]")

    with pytest.raises(InputError, match="holds 5 bytes of JSON; the demo takes at most 3"):
        list(json_paths(tmp_path, "in"))


def test_large_or_unreadable_file_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file over its limit, or one that is gone, is a fault of that file only."""
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 3)
    (tmp_path / "a.json").write_text("[1,2]")

    with pytest.raises(InputFileError, match=r"a\.json: has 5 bytes; at most 3"):
        read_json("a.json", tmp_path / "a.json")
    with pytest.raises(InputFileError, match=r"b\.json: cannot be read: No such file or directory"):
        read_json("b.json", tmp_path / "b.json")


@pytest.mark.parametrize("special", ["/dev/zero", "pipe", "directory"])
def test_special_file_is_a_fault(tmp_path: Path, special: str) -> None:
    """What is no regular file is refused without reading it: it may have no end, or no writer."""
    file = tmp_path / "a.json"
    match special:
        case "pipe":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case _:
            file.symlink_to(special)
    faults: list[InputFileError] = []

    def read() -> None:
        try:
            read_json("a.json", file)
        except InputFileError as fault:
            faults.append(fault)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10.0)

    assert [fault.reason for fault in faults] == [
        "cannot be read: Is a directory" if special == "directory" else "is no regular file"
    ]


def test_object_that_repeats_many_keys_is_read_in_time() -> None:
    """The keys that stand twice are found in one pass: a hundred thousand of them take no minutes."""
    data = b"{" + b",".join(b'"k%d": 1, "k%d": 2' % (at, at) for at in range(100_000)) + b"}"

    assert len(parse_json("x.json", data).repeated) == 100_000
