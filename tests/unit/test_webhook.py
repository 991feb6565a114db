"""The webhook against real HTTP servers on this machine: what is sent, what counts as taken, and what is never told."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from fix_http import endpoint, raw_endpoint
from holdfast.adapters import webhook
from holdfast.documents import Escalation
from holdfast.errors import SettingsError
from holdfast.recovery import webhook as posting
from holdfast.recovery.escalation_rules import EscalationNotice, notice_of
from holdfast.recovery.webhook import Webhook
from holdfast.recovery.webhook_address import WebhookAddress, read_address
from holdfast.settings import Settings

NOTICE = notice_of("e/ä 1", Escalation(subject="bot:b1", failed="it does not decode"))
PAGE = Path(__file__).parents[2] / "docs" / "escalations.md"
PATH = "/T0/t0ken?key=t0ken"


def hook(port: int, secret: str = "", *, secure: bool = False) -> Webhook:
    """One that posts to this machine."""
    return Webhook(WebhookAddress(secure, "127.0.0.1", port, PATH), secret, lambda: 1_700_000_000.4)


def is_genuine(secret: bytes, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """As docs/escalations.md says how to look: what is read there is run here."""
    code = re.search(r"```python\n(import hashlib\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102 - the project's own page
    return bool(names["is_genuine"](secret, headers, body, now))


async def test_a_notice_is_posted_as_json_and_signed() -> None:
    """The signature is the HMAC of time, key and exactly those bytes; with any of them changed it is another one."""
    with endpoint() as seen:
        made = webhook(
            Settings(
                escalation_webhook_url=f"http://localhost:{seen.port}{PATH}", escalation_webhook_secret="between us"
            ),
            lambda: 1_700_000_000.4,
        )
        assert made is not None
        await made(NOTICE, "e/ä 1/open@7\r\nX: y")
        (posted,) = seen.posted
    assert msgspec.json.decode(posted.body, type=EscalationNotice) == NOTICE
    assert (posted.path, posted.headers["Host"]) == (PATH, f"localhost:{seen.port}")
    assert posted.headers["Content-Type"] == "application/json"
    assert posted.headers["Idempotency-Key"] == "e/%C3%A4%201/open%407%0D%0AX%3A%20y"
    assert posted.headers["Holdfast-Timestamp"] == "1700000000"
    assert is_genuine(b"between us", posted.headers, posted.body, 1_700_000_299.0)
    assert not is_genuine(b"between us", posted.headers, posted.body, 1_700_000_301.0)
    assert not is_genuine(b"between you", posted.headers, posted.body, 1_700_000_000.0)
    assert not is_genuine(b"between us", posted.headers, posted.body + b" ", 1_700_000_000.0)
    for name, other in (("Holdfast-Timestamp", "1700000001"), ("Idempotency-Key", "another")):
        changed = {**posted.headers, name: other}
        assert not is_genuine(b"between us", changed, posted.body, 1_700_000_000.0)


async def test_without_a_secret_nothing_is_signed() -> None:
    """And without a URL there is no webhook."""
    with endpoint() as seen:
        await hook(seen.port)(NOTICE, "k")
        assert "Holdfast-Signature" not in seen.posted[0].headers
    assert webhook(Settings(), lambda: 0.0) is None


@pytest.mark.parametrize("status", [302, 404, 410, 500, 503])
async def test_what_is_not_taken_is_a_failure(status: int) -> None:
    """No redirect is followed, and the place that it names is not told."""
    with endpoint() as seen:
        seen.statuses, seen.location = [status], f"http://127.0.0.1:{seen.port}/elsewhere"
        with pytest.raises(ConnectionError, match=rf"^http://127.0.0.1:{seen.port}/\*\*\* answered {status}$"):
            await hook(seen.port)(NOTICE, "k")
        assert len(seen.posted) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-t0ken\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"t0ken" * 100_000,
        b"\x00" * 70_000,
        b"HTTP/1.1 103 t0ken\r\n\r\n" * 1000 + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_failure(answer: bytes) -> None:
    """It is read up to a limit, and told without a word of it."""
    async with raw_endpoint(answer) as port:
        with pytest.raises(ConnectionError, match="does not answer in HTTP") as failed:
            await hook(port)(NOTICE, "k")
    assert "t0ken" not in f"{failed.value!r} {failed.value.__cause__!r}"


async def test_one_that_says_nothing_can_be_given_up() -> None:
    """Whoever waits is cancelled at once; nothing goes on behind."""
    async with raw_endpoint(b"HTTP/1.1 100 Continue\r\n\r\n") as port:
        waiting = asyncio.ensure_future(hook(port)(NOTICE, "k"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.05)
        assert waiting.cancelled()


async def test_one_that_is_not_there_is_a_failure() -> None:
    """Told without its path."""
    with endpoint() as seen:
        pass
    with pytest.raises(OSError, match=str(seen.port)) as failed:
        await hook(seen.port)(NOTICE, "k")
    assert "t0ken" not in str(failed.value)


async def test_only_whom_the_system_trusts_is_told_by_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of nobody's is refused before anything is sent; one that is trusted is not."""
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    with endpoint(served) as seen:
        with pytest.raises(ssl.SSLCertVerificationError):
            await hook(seen.port, secure=True)(NOTICE, "k")
        assert seen.posted == []
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr(posting, "_trusted", lambda: trusting)
        await hook(seen.port, secure=True)(NOTICE, "k")
        assert len(seen.posted) == 1


async def test_where_it_posts_to_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the level: the path of such a URL is often all that protects it."""
    with caplog.at_level(logging.DEBUG), endpoint() as seen:
        await hook(seen.port, "between us")(NOTICE, "k")
    assert "t0ken" not in caplog.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hooks.example/T0/t0ken", "https:// URL"),
        ("ftp://hooks.example/t0ken", "https:// URL"),
        ("https:///t0ken", "https:// URL"),
        ("https://hooks.example/t0ken\r\nX: y", "visible ASCII|no URL"),
        ("https://hooks.example/t0ken ", "visible ASCII"),
        ("https://hooks.example:0/t0ken", "https:// URL"),
        ("https://hooks.example:99999/t0ken", "no URL"),
        ("https://[hooks/t0ken", "no URL"),
        ("https://hooks.example/" + "t0ken" * 1000, "at most 2000"),
        ("https://ada:t0ken@hooks.example/", "no user, password"),
        ("https://hooks.example/#t0ken", "fragment"),
        ("http://hooks.example/t0ken", "escalation_webhook_plain"),
        ("http://10.0.0.1/t0ken", "escalation_webhook_plain"),
        ("http://localhost.example/t0ken", "escalation_webhook_plain"),
    ],
)
def test_an_address_that_cannot_work_is_refused(url: str, words: str) -> None:
    """At once, without a word of it."""
    with pytest.raises(SettingsError, match=words) as refused:
        Settings(escalation_webhook_url=url)
    assert "t0ken" not in f"{refused.value!r} {refused.value.__cause__!r}"


@pytest.mark.parametrize("url", ["http://localhost/x", "http://127.0.0.1:80/x", "http://[::1]:8080/x"])
def test_this_machine_needs_no_tls(url: str) -> None:
    """What does not leave it can be read by nobody on the way."""
    assert not read_address(url, plain_allowed=False).secure


def test_an_address_says_what_http_needs() -> None:
    """A port that goes without saying is not named, and there is a path in any case."""
    assert read_address("https://hooks.example", plain_allowed=False) == (True, "hooks.example", 443, "/")
    assert read_address("http://hooks.example?a=1", plain_allowed=True) == (False, "hooks.example", 80, "/?a=1")
    assert read_address("https://hooks.example:443/x", plain_allowed=False).authority == "hooks.example"
    assert read_address("https://[::1]:8443/x", plain_allowed=False).authority == "[::1]:8443"


def test_neither_url_nor_secret_is_shown() -> None:
    """But for the host, which says whom to ask."""
    settings = Settings(escalation_webhook_url="https://hooks.example/T0/t0ken", escalation_webhook_secret="between us")
    assert "escalation_webhook_url='https://hooks.example/***'" in repr(settings)
    assert "escalation_webhook_secret='***'" in repr(settings)
    for shown in (repr(settings), repr(read_address("https://hooks.example/t0ken", plain_allowed=False))):
        assert "t0ken" not in shown
        assert "between us" not in shown
