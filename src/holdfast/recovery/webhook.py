"""The webhook of escalations: one POST per notice, over HTTP/1.1 as `h11` speaks it."""

from __future__ import annotations

import asyncio
import hmac
import ssl
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
    ``Holdfast-Signature: sha256=<hex>``, the HMAC-SHA-256 of the body. Redirects are not followed, the environment's
    proxies not used, and of the answer only the status is read.

    Args:
        secret: by which bodies are signed; empty: they are not.
    """

    def __init__(self, address: WebhookAddress, secret: str) -> None:
        self._address = address
        self._secret = secret.encode()

    async def __call__(self, notice: EscalationNotice, idempotency_key: str) -> None:
        """Send a notice, and return when the other side has said that it has it.

        Raises:
            OSError: it has not; the message holds neither its path nor what it answered.
        """
        body = msgspec.json.encode(notice)
        headers: Headers = [
            ("Host", self._address.authority),
            ("User-Agent", "holdfast"),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Idempotency-Key", quote(idempotency_key)),
        ]
        if self._secret:
            headers.append(("Holdfast-Signature", f"sha256={signature(self._secret, body)}"))
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


def signature(secret: bytes, body: bytes) -> str:
    """The HMAC-SHA-256 of a body, in hexadecimal."""
    return hmac.new(secret, body, "sha256").hexdigest()


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
