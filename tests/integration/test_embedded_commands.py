"""`holdfast up`, `status` and `down`, as functions that print."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

import holdfast
from fix_commands import run_command
from fix_secrets import NEW
from fix_servers import stopped_after
from holdfast import Settings
from holdfast.cli.servers import down, status, up
from holdfast.embedded import EmbeddedOptions, Running
from holdfast.errors import ServerStartError


async def test_up_prints_only_what_a_shell_may_evaluate(
    servers: Running, server_options: EmbeddedOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up` prints the variables on stdout, whole and quoted, and everything else on stderr; and no master key."""
    await up(home=server_options.home)
    printed = capsys.readouterr()
    assert shlex.split(printed.out) == [
        "export",
        f"HOLDFAST_POSTGRES_URL={servers.postgres_url}",
        "export",
        f"HOLDFAST_REDIS_URLS={','.join(servers.redis_urls)}",
        "export",
        f"HOLDFAST_MASTER_KEYS=$(cat {shlex.quote(str(server_options.home / 'master_key'))})",
    ]
    assert "all servers were running" in printed.err
    assert "contains a password" in printed.err
    assert "is set to other keys" not in printed.err
    assert servers.master_keys[0].partition(":")[2] not in printed.out + printed.err


@pytest.mark.usefixtures("servers")
async def test_up_does_not_replace_keys_in_silence(
    server_options: EmbeddedOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has named master keys of another origin is told how to keep them."""
    monkeypatch.setenv("HOLDFAST_MASTER_KEYS", "own:key")
    await up(home=server_options.home)
    assert "HOLDFAST_MASTER_KEYS is set to other keys" in capsys.readouterr().err


async def test_what_up_prints_opens_secrets_elsewhere(tmp_path: Path) -> None:
    """A shell that evaluates it has all that another process needs, whatever the home is called."""
    home = tmp_path / os.fsdecode(b'it\'s a "home" $(false) `false` \\ caf\xe9')
    async with stopped_after(EmbeddedOptions(home)):
        async with holdfast.connect(Settings(home=str(home))) as state:
            await (await state.runs.begin("search", run_id="r1", secrets={"token": "hush"})).release()
        others = {name: text for name, text in os.environ.items() if not name.startswith("HOLDFAST_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**others, "PATH": path, "PYTHONIOENCODING": "utf-8:strict"}  # as most locales have it
        script = 'eval "$(holdfast up --home "$1")" && exec holdfast runs reveal r1 token --reason "a test"'
        words = ("/bin/sh", "-c", script, "sh", home)
        shell = await asyncio.create_subprocess_exec(*words, env=environment, stdout=PIPE, stderr=PIPE)
        printed, said = await shell.communicate()
        assert (shell.returncode, printed) == (0, b'"hush"\n'), said


@pytest.mark.usefixtures("servers")
async def test_status_lists_the_servers(server_options: EmbeddedOptions, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` names each server with its state, and exits with 0 if all run."""
    assert await status(home=server_options.home) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^ ?(postgres|valkey-\d) +running", printed, re.MULTILINE) == [
        "postgres",
        "valkey-1",
        "valkey-2",
        "valkey-3",
    ]


async def test_the_master_key_of_a_home_can_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one before it in its file, as in the setting; after a rotation the older one can go."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOLDFAST_HOME", str(home))
    async with stopped_after(EmbeddedOptions(home)):
        async with holdfast.connect(Settings(home=str(home))) as state:
            await (await state.runs.begin("search", run_id="r1", secrets={"token": "hush"})).release()
        file = home / "master_key"
        file.write_text(f"{NEW}, {file.read_text()}\n")
        assert await run_command("keys", "rotate", "--by", "ada") == 0
        file.write_text(f"{NEW}\n")
        async with holdfast.connect(Settings(home=str(home))) as state:
            assert await state.runs.reveal("r1", "token", by="ada", reason="a test") == "hush"
            assert [entry.note.actor for entry in await state.audit.list()] == ["ada", "ada"]


async def test_status_in_a_pipe_keeps_each_server_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths longer than 80 columns are neither split nor cut where no terminal is."""
    monkeypatch.setenv("COLUMNS", "80")
    home = tmp_path / ("h" * 90)
    await status(home=home)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert [line.split()[-1] for line in lines[1:]] == [
        str(home / f"{name}.log") for name in ("postgres", "valkey-1", "valkey-2", "valkey-3")
    ]


async def test_interrupted_up_says_what_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`up` that is interrupted says in one line that the start goes on and how to end what it starts."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        starting = asyncio.create_task(up(home=options.home))
        while not capsys.readouterr().err:  # noqa: ASYNC110 - the first line of progress
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert "goes on and stays up; `holdfast down` ends it\n" in capsys.readouterr().err


async def test_home_without_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing runs `status` exits with 1, and `down` says that there was nothing to stop."""
    assert await status(home=tmp_path / "home") == 1
    assert "stopped" in capsys.readouterr().out
    await down(home=tmp_path / "home")
    assert "no server was running" in capsys.readouterr().err


async def test_up_that_fails_says_why(tmp_path: Path) -> None:
    """A start that fails raises the sentence that the command prints, with a home that keeps its version."""
    data = tmp_path / "home" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    async with stopped_after(EmbeddedOptions(tmp_path / "home")):
        with pytest.raises(ServerStartError, match="made by PostgreSQL 16 and 18 is asked for"):
            await up(home=tmp_path / "home")
