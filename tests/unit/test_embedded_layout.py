"""Where homes and sockets are, and which paths are refused."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from holdfast.embedded import postgres
from holdfast.embedded.layout import (
    HOME_BYTES_MAX,
    SOCKET_NAME,
    SOCKET_PATH_BYTES_MAX,
    Layout,
    default_home,
    private_directory,
    remove_private_directory,
    socket_directory_fits,
    write_privately,
)
from holdfast.embedded.options import EmbeddedOptions
from holdfast.errors import ServerStartError, SettingsError


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in ("HOLDFAST_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "home"),
    [
        ({"HOLDFAST_HOME": "/srv/mine", "XDG_DATA_HOME": "/data", "HOME": "/home/me"}, "/srv/mine"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/me"}, "/data/holdfast"),
        ({"HOME": "/home/me"}, "/home/me/.local/share/holdfast"),
        ({"HOLDFAST_HOME": "", "XDG_DATA_HOME": "", "HOME": "/home/me"}, "/home/me/.local/share/holdfast"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/share/holdfast"),
    ],
)
def test_default_home_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], home: str
) -> None:
    """HOLDFAST_HOME wins, then XDG_DATA_HOME if absolute, then HOME; empty means unset."""
    environment(monkeypatch, **values)
    assert default_home() == Path(home)


def test_default_home_of_a_user_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME and an entry in the password file, the error says what to set."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    environment(monkeypatch)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(SettingsError, match="HOLDFAST_HOME: set it"):
        default_home()


def test_every_spelling_of_a_home_is_one_home(tmp_path: Path) -> None:
    """Links and detours lead to the same layout, so that servers are recognised by their paths."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert Layout.of(tmp_path / "link" / ".." / "link") == Layout.of(tmp_path / "home")


@pytest.mark.parametrize(
    ("home", "words"),
    [("/srv/a\nb", "control character"), ("/" + "é" * (HOME_BYTES_MAX // 2), "801 bytes long")],
)
def test_home_that_no_server_takes_is_refused(home: str, words: str) -> None:
    """A home with a control character or of too many bytes is refused in a sentence."""
    with pytest.raises(ServerStartError, match=words):
        Layout.of(Path(home))


def test_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the files of someone else's home say is not believed."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ServerStartError, match=f"belongs to user id {owner}"):
        Layout(tmp_path).prepare()


def test_replicas_are_read_from_the_folders(tmp_path: Path) -> None:
    """A home says by its folders how many replicas it was made with."""
    layout = Layout(tmp_path)
    assert layout.replicas() is None
    layout.nodes(0)[0].folder.mkdir()
    assert layout.replicas() == 0
    layout.nodes(1)[5].folder.mkdir()
    assert layout.replicas() == 1
    assert [files.name for files in layout.nodes(1)] == [f"valkey-{index}" for index in range(1, 7)]


@pytest.mark.parametrize(
    ("directory", "fits"),
    [
        ("/" + "d" * (SOCKET_PATH_BYTES_MAX - len(SOCKET_NAME) - 2), True),
        ("/" + "d" * (SOCKET_PATH_BYTES_MAX - len(SOCKET_NAME) - 1), False),
        ("/" + "é" * 45, False),
        ("/a home", True),
        ("/a,b", False),
        ("/\udcff", False),
    ],
)
def test_socket_directory_fits_by_bytes_and_characters(directory: str, fits: bool) -> None:  # noqa: FBT001 - a table
    """A socket's directory fits if its path, in bytes, does, and if a URL can carry it."""
    assert socket_directory_fits(Path(directory)) is fits


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets below it, which pytest's own may not have."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere", "/dev/null", "long"])
def test_private_directory_needs_a_runtime_directory_that_is_ours(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """A runtime directory that is absent, none, or deep is passed over for the one of temporary files."""
    long = tmp_path / ("d" * SOCKET_PATH_BYTES_MAX)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long) if runtime == "long" else runtime)
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    made = private_directory()
    assert (made.parent, made.stat().st_mode & 0o777) == (short_folder, 0o700)
    remove_private_directory(made)
    assert not made.exists()


def test_private_directory_is_in_the_runtime_directory(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short runtime directory of ours is used, but not for another account; without any short one it is said."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    assert private_directory().parent == short_folder
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108 - where it is made, and removed
    elsewhere = private_directory(ours=False)
    assert elsewhere.parent != short_folder
    elsewhere.rmdir()
    long = short_folder / ("d" * SOCKET_PATH_BYTES_MAX)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ServerStartError, match="no place for a socket"):
        private_directory()
    assert [*long.iterdir()] == []


def test_private_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """Only a socket and its lock are ever removed from the directory that a state file names."""
    (tmp_path / "precious").write_text("kept")
    (tmp_path / SOCKET_NAME).touch()
    remove_private_directory(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_private_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A file that holds a secret is readable by its owner only, also when it was not before."""
    file = tmp_path / "secret"
    file.touch(mode=0o644)
    write_privately(file, b"new")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o600)
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("sockets", ["/run/holdfast", "/a home/100%/é?&#'\"=+"])
def test_postgres_url_carries_any_directory(sockets: str) -> None:
    """Whatever the socket's directory is called, the URL says exactly that."""
    parts = urlsplit(postgres.url(Path(sockets)))
    assert (parts.scheme, parts.username, parts.path) == ("postgresql", "holdfast", "/holdfast")
    assert parse_qs(parts.query) == {"host": [sockets]}


@pytest.mark.parametrize(("name", "value"), [("replicas", 2), ("replicas", -1), ("postgres_version", 17)])
def test_options_that_are_not_bundled_are_refused(name: str, value: int) -> None:
    """Options outside what is bundled are an error that names the option."""
    with pytest.raises(SettingsError, match=name):
        EmbeddedOptions(Path("/home"), **{name: value})
