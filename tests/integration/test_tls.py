"""TLS to both servers. The embedded ones are built without it, so these need Debian's redis-server and postgresql."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
import trustme

import holdfast
from fix_races import KEY
from holdfast import Bot, Settings, TierUnavailable
from holdfast.adapters import connection_pool, prepare, redis_connection
from holdfast.clock import SystemClock
from holdfast.embedded import Running
from holdfast.protocols import Absent, Failed
from holdfast.testing.conformance.l2_harness import VIEW
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_redis import RedisCache

REDIS = shutil.which("redis-server")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
AS_ORDINARY_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []


class Certificates:
    """A certificate for 127.0.0.1 and the authority that vouches for it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        issued.private_key_pem.write_to_path(str(self.key))
        self.key.chmod(0o600)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server listens; the test's timeout is the deadline."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            assert process.poll() is None, "the server ended"
        else:
            return


@pytest.fixture
def tls_redis(tmp_path: Path, certificates: Certificates) -> Iterator[str]:
    """The URL of a Redis that speaks nothing but TLS."""
    if REDIS is None:
        pytest.skip("no redis-server with TLS on this machine")
    port = free_port()
    options = {
        "port": 0,
        "tls-port": port,
        "tls-cert-file": certificates.cert,
        "tls-key-file": certificates.key,
        "tls-ca-cert-file": certificates.ca,
        "tls-auth-clients": "no",
        "requirepass": "s3cret",
        "save": "",
        "dir": tmp_path,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen([REDIS, *arguments], stdout=subprocess.DEVNULL)
    try:
        await_port(port, process)
        yield f"rediss://:s3cret@127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tls_postgres(tmp_path: Path, certificates: Certificates) -> Iterator[str]:
    """The URL of a PostgreSQL that lets nobody in without TLS."""
    if not POSTGRES:
        pytest.skip("no postgresql with TLS on this machine")
    folder, data, port = POSTGRES[-1], tmp_path / "data", free_port()
    password = tmp_path / "password"
    password.write_text("s3cret")
    subprocess.run(
        [*AS_ORDINARY_USER, folder / "initdb", "-D", data, "-U", "app", "-A", "scram-sha-256", f"--pwfile={password}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(
            f"ssl = on\nssl_cert_file = '{certificates.cert}'\nssl_key_file = '{certificates.key}'\n"
            f"port = {port}\nunix_socket_directories = ''\nlogging_collector = off\n"
        )
    control = [*AS_ORDINARY_USER, f"{folder}/pg_ctl", "-D", str(data), "-w", "-l", f"{tmp_path}/postgres.log"]
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql://app:{quote('s3cret')}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


async def ask(settings: Settings) -> Absent | Failed:
    """What L2 says of a key that nobody stored."""
    connection = redis_connection(settings, SystemClock())
    cache = RedisCache(connection, Codec(), prefix=b"tls:", fence_lifetime_seconds=60.0, lease_seconds=0.2)
    answer = (await cache.read([KEY], VIEW))[KEY]
    await connection.close()
    assert isinstance(answer, Absent | Failed)
    return answer


def settings_for(postgres: str, redis: str, **others: str) -> Settings:
    return Settings(postgres_url=postgres, redis_urls=(redis,), l2_connect_timeout_seconds=1.0, **others)  # type: ignore[arg-type]


async def test_redis_over_tls(tls_redis: str, certificates: Certificates) -> None:
    """A `rediss` URL works with the authority that signed, and is refused without it."""
    trusting = settings_for("postgresql://unused/x", tls_redis, redis_ca_file=str(certificates.ca))
    assert isinstance(await ask(trusting), Absent)
    assert isinstance(await ask(msgspec.structs.replace(trusting, redis_ca_file="")), Failed)


async def test_postgres_over_tls(tls_postgres: str, certificates: Certificates, servers: Running) -> None:
    """With the authority the whole door works over TLS; without it `sslmode=require` already refuses."""
    trusting = settings_for(tls_postgres, servers.redis_urls[0], postgres_ca_file=str(certificates.ca))
    async with holdfast.connect(trusting) as state:
        await state.bots.put("b1", Bot(name="Ada"))
        assert await state.bots.get("b1") == Bot(name="Ada")
    for mode in ("require", "verify-ca", "verify-full"):
        doubting = settings_for(f"{tls_postgres}?sslmode={mode}", servers.redis_urls[0])
        pool = connection_pool(doubting)
        with pytest.raises(TierUnavailable, match="certificate verify failed"):
            await prepare(pool, [], migrate=False, progress=lambda _: None)
        await pool.close()
