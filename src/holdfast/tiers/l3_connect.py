"""Opening one connection to PostgreSQL, ready for the statements of L3."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import asyncpg

from holdfast.errors import SettingsError
from holdfast.tiers.l3_errors import mapped

GRACE_SECONDS = 2.0
_UNREADABLE = (
    "postgres_url: it is not postgresql://user:password@host:port/database; "
    "percent-encode what has a meaning in URLs, such as / and # in a password"
)
_VERIFIED = {"require", "verify-ca", "verify-full"}

FEED_SESSION: Final[Mapping[str, str]] = {
    "application_name": "holdfast feed",
    # Without statistics the planner takes a third of the outbox to be new, and would read all of it.
    "enable_seqscan": "off",
    # The lead is a lock of the session: a server that stands still must lose it.
    "idle_session_timeout": "10s",
    "tcp_user_timeout": "10s",
    # Each statement must see what was committed before it, whatever the database's default is.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
"""Settings of the server for a connection that reads the change feed."""


class PostgresConnector:
    """Opens connections to one database.

    Args:
        url: ``postgresql://[user[:password]@][host][:port]/database[?host=...&sslmode=...]``.
        connect_timeout_seconds: for one attempt.
        statement_timeout_seconds: after which the server gives a statement up.
        ca_file: certificates to trust instead of the system's. With it, or with ``sslmode=require`` and above
            in the URL, the server's certificate and name are verified.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_seconds: float,
        statement_timeout_seconds: float,
        ca_file: str | None = None,
    ) -> None:
        if url.partition("://")[0] not in {"postgresql", "postgres"}:
            raise SettingsError(_UNREADABLE)
        self._url = url
        self._timeout_seconds = connect_timeout_seconds
        self._statement_timeout_ms = round(statement_timeout_seconds * 1000)
        self._command_timeout_seconds = statement_timeout_seconds + GRACE_SECONDS
        self._ssl = self._tls(ca_file)

    async def open(self, session: Mapping[str, str] | None = None) -> asyncpg.Connection[Any]:
        """Open a connection whose `json` values are bytes.

        Args:
            session: settings of the server for this connection, instead of or beside the usual ones.

        Raises:
            TierUnavailable: the server cannot be reached, or refuses us; the message has no password.
        """
        with mapped("connecting"):
            connection = await self._connect(session or {})
            try:
                # A json value travels as its own text; bytes in and out spare a decoding that msgspec does better.
                await connection.set_type_codec(
                    "json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary"
                )
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _connect(self, session: Mapping[str, str]) -> asyncpg.Connection[Any]:
        try:
            return await asyncpg.connect(
                self._url,
                timeout=self._timeout_seconds,
                # The server gives a statement up by itself; this is for a server, or a network, that does nothing more.
                command_timeout=self._command_timeout_seconds,
                server_settings={
                    "application_name": "holdfast",
                    "jit": "off",
                    # The union over all kinds' tables takes longer to plan than to run.
                    "plan_cache_mode": "force_generic_plan",
                    "statement_timeout": str(self._statement_timeout_ms),
                    "idle_in_transaction_session_timeout": str(self._statement_timeout_ms),
                    **session,
                },
                **({"ssl": self._ssl} if self._ssl is not None else {}),
            )
        except OSError:  # a certificate that does not verify is one, and a ValueError besides
            raise
        except ValueError:  # of the URL; its text may hold a part of the password
            raise SettingsError(_UNREADABLE) from None

    def _tls(self, ca_file: str | None) -> ssl.SSLContext | None:
        """Verify wherever TLS was asked for; the driver alone would take any certificate for ``sslmode=require``."""
        asked = {name: values[-1] for name, values in parse_qs(self._url.partition("?")[2]).items()}
        if ca_file is None and asked.get("sslmode") not in _VERIFIED:
            return None
        try:
            context = ssl.create_default_context(cafile=ca_file or asked.get("sslrootcert"))
            if "sslcert" in asked:
                context.load_cert_chain(asked["sslcert"], asked.get("sslkey"))
        except (OSError, ssl.SSLError) as fault:
            raise SettingsError(f"postgres_ca_file or the URL's sslrootcert, sslcert, sslkey: {fault}") from fault
        context.check_hostname = asked.get("sslmode") != "verify-ca"
        return context
