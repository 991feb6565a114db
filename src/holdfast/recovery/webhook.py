"""The webhook of escalations: one POST per notice, over HTTP/1.1 as `h11` speaks it."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Callable
from functools import cache
from typing import Final
from urllib.parse import quote

import h11
import msgspec

from holdfast.recovery.escalation_rules import EscalationNotice
from holdfast.recovery.webhook_address import WebhookAddress

READ_BYTES: Final = 16 * 1024
"""Of an answer, until its status is known."""
SHUTDOWN_SECONDS: Final = 1.0
"""For the other side to take leave of TLS."""

Headers = list[tuple[str, str]]


class Webhook:
    """Posts notices as JSON; whoever calls it bounds the time that takes.

    Its headers are ``Idempotency-Key``, the same whenever a notice is sent again, and with a secret
    ``Holdfast-Timestamp``, when it was sent, in seconds since 1970, and ``Holdfast-Signature: sha256=<hex>``: see
    `signature`. Redirects are not followed, the environment's proxies not used, and of the answer only the status is
    read.

    Args:
        secret: by which notices are signed; empty: they are not.
        wall: the time of day, seconds since 1970.
    """

    def __init__(self, address: WebhookAddress, secret: str, wall: Callable[[], float]) -> None:
        self._address = address
        self._secret = secret.encode()
        self._wall = wall

    async def __call__(self, notice: EscalationNotice, idempotency_key: str) -> None:
        """Send a notice, and return when the other side has said that it has it.

        Raises:
            OSError: it has not; the message holds neither its path nor what it answered.
        """
        body, key = msgspec.json.encode(notice), quote(idempotency_key)
        headers: Headers = [
            ("Host", self._address.authority),
            ("User-Agent", "holdfast"),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Idempotency-Key", key),
        ]
        if self._secret:
            sent = f"{self._wall():.0f}"
            headers.append(("Holdfast-Timestamp", sent))
            headers.append(("Holdfast-Signature", f"sha256={signature(self._secret, sent, key, body)}"))
        status = await self._post(headers, body)
        if not 200 <= status < 300:
            raise ConnectionError(f"{self._address.shown} answered {status}")

    async def _post(self, headers: Headers, body: bytes) -> int:
        address = self._address
        reader, writer = await asyncio.open_connection(
            address.host,
            address.port,
            ssl=await asyncio.to_thread(_trusted) if address.secure else None,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS if address.secure else None,
        )
        try:
            talk = h11.Connection(h11.CLIENT)
            request = h11.Request(method="POST", target=address.target, headers=headers)
            writer.write(b"".join(filter(None, map(talk.send, (request, h11.Data(body), h11.EndOfMessage())))))
            await writer.drain()
            return await _status(talk, reader)
        except h11.RemoteProtocolError:  # its text may hold what was answered
            raise ConnectionError(f"{address.shown} does not answer in HTTP") from None
        finally:
            writer.close()


def signature(secret: bytes, sent: str, key: str, body: bytes) -> str:
    """The HMAC-SHA-256 of time, idempotency key and body, with a dot between them, in hexadecimal.

    So a notice that was signed once can be passed neither for another one nor, much later, for a new one.

    Args:
        sent, key: as the headers have them, in which there is no dot that could be one of these: the time has digits.
    """
    return hmac.new(secret, b".".join((sent.encode(), key.encode(), body)), "sha256").hexdigest()


async def _status(talk: h11.Connection, reader: asyncio.StreamReader) -> int:
    """The status of the answer, read up to a limit: interim answers could go on for ever, and keep the event loop."""
    left = READ_BYTES
    while not isinstance(event := talk.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            if not left:
                raise h11.RemoteProtocolError(f"no status in {READ_BYTES} bytes")
            data = await reader.read(left)
            left -= len(data)
            talk.receive_data(data)
    return event.status_code


@cache
def _trusted() -> ssl.SSLContext:
    """TLS that trusts whom the system trusts; made once, in a thread, since it reads all their certificates."""
    return ssl.create_default_context()
