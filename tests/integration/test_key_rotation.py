"""Master keys on real servers: rotated under load, and by hand."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_feed import connected
from fix_races import until
from fix_secrets import NEW, OLD, entropy
from fix_tiers import flows_of
from fix_write_behind import quick
from holdfast import Settings, SettingsError
from holdfast.adapters import connection_pool
from holdfast.audit.log import AuditLog
from holdfast.errors import KeyRetired, TierUnavailable
from holdfast.kinds import BUILT_IN
from holdfast.node import OpenStore, process_name
from holdfast.sensitivity.data_keys import DataKey
from holdfast.sensitivity.key_ring import wrapped_row
from holdfast.sensitivity.master_keys import MasterKeys, master_key_line
from holdfast.sensitivity.rotating import rotate
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_keys import PostgresKeys
from integration.test_incarnation import become_another

MORE_KEYS = 40
WRITERS = 3
Written = dict[str, dict[str, Any]]


def with_keys(settings: Settings, *master_keys: str) -> Settings:
    """A server's settings with these master keys."""
    return quick(settings, master_keys=master_keys)


@asynccontextmanager
async def keys_of(settings: Settings) -> AsyncIterator[PostgresKeys]:
    """L3's data keys, by a connection of the test's own."""
    pool = connection_pool(settings, size_max=3)
    try:
        yield PostgresKeys(pool)
    finally:
        await pool.close()


async def add_keys(rows: PostgresKeys, count: int) -> None:
    """So many data keys that the older master key wraps."""
    masters = MasterKeys.read([OLD])
    for number in range(count):
        await rows.add(wrapped_row(DataKey(f"k{number}", entropy(number)(32)), masters, entropy(number)))


async def write_on(state: OpenStore, run_id: str, written: Written, stop: asyncio.Event) -> None:
    """Seal and open secrets of a run, and of its children, until told to stop; then let go of it."""
    run = await state.runs.begin("search", run_id=run_id)
    values = written[run_id] = {}
    while not stop.is_set():
        name, value = f"v{len(values) % 50}", [f"{run_id}-{len(values)}", {"n": len(values)}]
        async with run.step("write"):
            run.context.set(name, value, sensitivity="secret")
        values[name] = run.context[name]
        assert values[name] == value
        if len(values) % 10 == 5:
            async with state.runs.begin("look", parent=run) as child:
                assert dict(child.context) == values
    await run.release()


async def one_more(settings: Settings, master_keys: Sequence[str], written: Written, number: int) -> None:
    """A server that starts meanwhile seals, and opens a fork of what others have sealed."""
    async with holdfast.connect(with_keys(settings, *master_keys)) as state:
        fork = await state.runs.fork(next(iter(written)))
        assert fork.context["v0"][1] == {"n": 0}
        fork.context.set("own", number, sensitivity="pii")
        written[fork.id] = dict(fork.context)
        await fork.release()


async def until_written(writers: Sequence[asyncio.Task[None]], written: Written, count: int) -> None:
    """Wait until each writer has so many values."""

    async def enough() -> bool:
        for each in writers:
            if each.done():
                each.result()
        return len(written) >= len(writers) and all(len(values) >= count for values in written.values())

    await until(enough)


async def test_a_rotation_under_load_loses_nothing(settings: Settings) -> None:
    """Two rotate while servers seal and open, and others start with either order of keys.

    No row is left under the older key, and with the newer one alone all that was sealed can be opened.
    """
    stop, written = asyncio.Event(), Written()
    async with keys_of(settings) as rows:
        await add_keys(rows, MORE_KEYS)
        async with (
            holdfast.connect(with_keys(settings, OLD)) as lagging,
            holdfast.connect(with_keys(settings, OLD, NEW)) as ready,
        ):
            writers = [
                asyncio.create_task(write_on(state, f"{name}-{number}", written, stop))
                for name, state in (("lagging", lagging), ("ready", ready))
                for number in range(WRITERS)
            ]
            await until_written(writers, written, 5)
            both = await asyncio.gather(
                *(
                    rotate(rows, MasterKeys.read([NEW, OLD]), entropy(seed), lambda _: None, audit=ready.audit)
                    for seed in (1, 2)
                ),
                *(one_more(settings, order, written, seed) for seed, order in enumerate(((OLD, NEW), (NEW, OLD)))),
            )
            await until_written(writers, {name: written[name] for name in written if "-" in name}, 20)
            stop.set()
            await asyncio.gather(*writers)
        uses = {each.id: each for each in await rows.masters()}
        assert (uses["old"].rows, uses["old"].retired_at is not None) == (0, True)
        assert sum(each.rewrapped for each in both if each is not None) == MORE_KEYS
        assert MORE_KEYS <= uses["new"].rows <= MORE_KEYS + 2  # a server that starts after it has made a new one
    async with holdfast.connect(with_keys(settings, NEW)) as after:
        for run_id, values in written.items():
            resumed = await after.runs.resume(run_id)
            assert dict(resumed.context) == values
            await resumed.release()
    with pytest.raises(KeyRetired):
        await holdfast.connect(with_keys(settings, OLD))


async def token_of(state: OpenStore, run_id: str) -> Any:
    """A secret, for which a server has to have its data key."""
    return await state.runs.reveal(run_id, "token", by="ada", reason="a test")


async def fall_back(sql: Any, settings: Settings) -> None:
    """Let L3 be as `before` says it was, when the older master key was not retired; it is another incarnation then."""
    await sql.execute("UPDATE holdfast.master_keys SET retired_at = NULL, retired_behind = NULL")
    await sql.execute("DELETE FROM holdfast.data_keys WHERE id NOT IN (SELECT id FROM before)")
    await sql.execute(
        "UPDATE holdfast.data_keys AS d SET master_id = b.master_id, wrapped = b.wrapped FROM before AS b"
        " WHERE b.id = d.id"
    )
    await become_another(settings)


async def test_an_l3_that_fell_back_to_before_a_rotation_loses_nothing(settings: Settings) -> None:
    """Servers that have the newer master key alone wrap its data keys anew, each row once, and give back what it lacks.

    So who starts afterwards with the newer master key opens what was sealed before the rotation, and after it.
    """
    async with keys_of(settings) as rows, connected(settings.postgres_url) as sql:
        async with holdfast.connect(with_keys(settings, OLD)) as state:
            await (await state.runs.begin("search", run_id="r1", secrets={"token": "first"})).release()
        await sql.execute("CREATE TABLE before AS SELECT * FROM holdfast.data_keys")
        audit = AuditLog(PostgresAudit(rows._pool), server="ada")
        await rotate(rows, MasterKeys.read([NEW, OLD]), entropy(), lambda _: None, audit=audit)
        alone = with_keys(settings, NEW)
        async with holdfast.connect(alone) as one, holdfast.connect(alone) as two:
            await (await one.runs.begin("search", run_id="r2", secrets={"token": "second"})).release()
            for state in (one, two):
                assert [await token_of(state, run_id) for run_id in ("r1", "r2")] == ["first", "second"]
            await fall_back(sql, settings)

            async def put_right() -> bool:
                try:
                    return [(each.id, each.rows) for each in await rows.masters()] == [("new", 2), ("old", 0)]
                except TierUnavailable:  # its connection ended with the former L3
                    return False

            await until(put_right)
            keepers = [flows_of(state).run_flows.key_keeper for state in (one, two)]
            assert sum(each.rewrapped for each in keepers) <= 1
        assert [each.retired_at for each in await rows.masters()] == [None, None]
    async with holdfast.connect(alone) as after:
        assert [await token_of(after, run_id) for run_id in ("r1", "r2")] == ["first", "second"]


@pytest.fixture
def keys_command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Status and output of `holdfast keys ...` with these master keys; no output has a key."""
    name_servers(settings, monkeypatch)

    async def run(*words: str, master_keys: Sequence[str] = ()) -> tuple[int, list[str]]:
        monkeypatch.setenv("HOLDFAST_MASTER_KEYS", ",".join(master_keys))
        capsys.readouterr()
        status, told = await run_command("keys", *words), capsys.readouterr()
        assert not any(each.partition(":")[2][:12] in told.out + told.err for each in master_keys)
        return status, told.out.splitlines()

    return run


async def test_a_key_is_made_and_used_and_listed(settings: Settings, keys_command: Any) -> None:
    """What `new` prints is what the setting takes; `list` shows what L3 knows of it, and never the key."""
    _, (line,) = await keys_command("new")
    _, (named,) = await keys_command("new", "--id", "second")
    assert re.fullmatch(r"m[0-9a-f]{8}:[A-Za-z0-9+/]{43}=", line)
    assert named.startswith("second:")
    identifier = line.partition(":")[0]
    _, listed = await keys_command("list", master_keys=(line, named))
    assert [json.loads(each)["state"] for each in listed] == ["first", "unused"]
    async with holdfast.connect(with_keys(settings, line)) as state:
        await (await state.runs.begin("search", secrets={"token": "hush"})).complete()
    _, listed = await keys_command("list", master_keys=(named, line))
    assert [json.loads(each) for each in listed] == [
        {"id": "second", "rows": 0, "state": "first", "named": True},
        {"id": identifier, "rows": 1, "state": "used", "named": True},
    ]
    with pytest.raises(SettingsError, match="letters, digits"):
        await keys_command("new", "--id", "a,b")


async def test_keys_are_rotated_by_hand(settings: Settings, keys_command: Any) -> None:
    """Until none is left; a key that is missing is named, and the exit status says that something is left."""
    third = master_key_line("third", b"t" * 32)
    async with keys_of(settings) as rows:
        await add_keys(rows, 3)
        key = DataKey("apart", b"k" * 32)
        await rows.add(wrapped_row(key, MasterKeys.read([third]), entropy()))
    status, told = await keys_command("rotate", master_keys=(NEW, OLD))
    assert (status, told) == (
        1,
        ["3 data keys wrapped anew by new; retired: old, third", "1 data keys are left under other master keys"],
    )
    status, told = await keys_command("rotate", master_keys=(NEW, third))
    assert (status, told[1]) == (0, "0 data keys are left under other master keys")
    by_ada = ("--reason", "to be sure", "--by", "ada")
    assert (await keys_command("rotate", *by_ada, master_keys=(NEW,)))[0] == 0
    async with holdfast.connect(with_keys(settings, NEW)) as state:
        noted = [entry.note for entry in await state.audit.list()]
    assert [(each.action, each.subject, each.detail, each.reason) for each in noted] == [
        ("rotated", "master_key:old,third->new", '{"data_keys":4}', "by hand"),
        ("rotated", "master_key:third->new", '{"data_keys":1}', "by hand"),
        ("rotated", "master_key:new", '{"data_keys":0}', "to be sure"),
    ]
    assert [each.actor for each in noted] == [process_name(), process_name(), "ada"]
    with pytest.raises(KeyRetired, match="third was retired"):
        await keys_command("rotate", master_keys=(third, NEW))


async def test_l3_itself_refuses_a_retired_master_key(settings: Settings) -> None:
    """Whatever program writes the row; and a server that may write rows may not remove them."""
    async with keys_of(settings) as rows, connected(settings.postgres_url) as sql:
        await add_keys(rows, 1)
        await rows.retire(["old"], first="new")
        for statement in (
            "INSERT INTO holdfast.data_keys (id, master_id, wrapped) VALUES ('x', 'old', 'x')",
            "UPDATE holdfast.data_keys SET wrapped = 'x'",
            "SET session_replication_role = replica; UPDATE holdfast.data_keys SET wrapped = 'x'",
        ):
            with pytest.raises(Exception, match="the master key old is retired"):
                await sql.execute(statement)


async def test_no_clock_tells_which_data_keys_are_outdated(settings: Settings) -> None:
    """After a failover L3's clock may be hours behind, and before one ahead."""
    async with keys_of(settings) as rows, connected(settings.postgres_url) as sql:
        await add_keys(rows, 1)
        await sql.execute("UPDATE holdfast.data_keys SET created_at = now() + interval '1 day'")
        await rows.retire(["third"], first="old")
        newest = await rows.newest(["old"])
        assert newest is not None
        assert newest.is_outdated
        await sql.execute("UPDATE holdfast.master_keys SET retired_at = now() + interval '1 day' WHERE id = 'third'")
        await rows.add(wrapped_row(DataKey("newer", b"n" * 32), MasterKeys.read([OLD]), entropy()))
        newest = await rows.newest(["old"])
        assert newest is not None
        assert (newest.row.id, newest.is_outdated) == ("newer", False)


async def test_what_was_there_before_a_rotation_is_outdated_after_a_migration(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotations that an earlier version has made count too."""
    all_ = l3_migrations.migrations()
    async with keys_of(settings) as rows, connected(settings.postgres_url) as sql:
        await sql.execute("DROP SCHEMA holdfast CASCADE")
        with monkeypatch.context() as past:
            past.setattr(l3_migrations, "migrations", lambda: [each for each in all_ if each.number < 12])
            await l3_migrations.migrate(sql, BUILT_IN)
        await add_keys(rows, 1)
        await rows.retire(["third"], first="old")
        assert "0012_outdated_keys.sql" in await l3_migrations.migrate(sql, BUILT_IN)
        newest = await rows.newest(["old"])
        assert newest is not None
        assert newest.is_outdated


async def test_who_could_run_a_server_can_use_keys(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the migration; but remove none: what it has sealed could not be opened any more."""
    role, all_ = f"role_{uuid.uuid4().hex}", l3_migrations.migrations()
    async with connected(settings.postgres_url) as sql:
        await sql.execute("DROP SCHEMA holdfast CASCADE")
        with monkeypatch.context() as past:
            past.setattr(l3_migrations, "migrations", lambda: all_[:7])
            await l3_migrations.migrate(sql, BUILT_IN)
        await sql.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA holdfast TO {role}")
        await sql.execute(f"GRANT INSERT ON holdfast.generations TO {role}")
        assert (await l3_migrations.migrate(sql, BUILT_IN))[0] == "0008_keys.sql"
        await sql.execute(f"SET ROLE {role}")
        await sql.execute("INSERT INTO holdfast.data_keys (id, master_id, wrapped) VALUES ('x', 'old', 'x')")
        await sql.execute("SELECT holdfast.retire_master_keys(ARRAY['old'], 'new')")
        await sql.execute("UPDATE holdfast.data_keys SET master_id = 'new'")
        for statement in ("DELETE FROM holdfast.data_keys", "TRUNCATE holdfast.master_keys"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(statement)
        await sql.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_setting_that_is_none_is_told_without_it(settings: Settings, keys_command: Any) -> None:
    """A key in an error would be in a log."""
    with pytest.raises(SettingsError, match="number 1") as caught:
        await keys_command("list", master_keys=(OLD[:-2],))
    assert OLD[4:12] not in str(caught.value)
    assert msgspec.structs.replace(settings, master_keys=(OLD,)).master_keys == (OLD,)
