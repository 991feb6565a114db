"""Where a webhook is (pure). Its path and query may be all that keeps others from using it, so they are never shown."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from holdfast.errors import SettingsError

_PORTS: Final = {"https": 443, "http": 80}
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,2000}\Z")


class WebhookAddress(NamedTuple):
    """The parts of a webhook's URL.

    Attributes:
        secure: by TLS.
        target: path and query.
    """

    secure: bool
    host: str
    port: int
    target: str

    def __repr__(self) -> str:
        return f"WebhookAddress({self.shown})"

    @property
    def authority(self) -> str:
        """Host and port, as a ``Host`` header names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """As much of the URL as anybody may see."""
        return f"http{'s' if self.secure else ''}://{self.authority}/***"


def read_address(url: str, *, plain_allowed: bool) -> WebhookAddress:
    """The address that a URL names.

    Args:
        plain_allowed: without TLS to other machines too.

    Raises:
        SettingsError: it is no such URL; the message holds nothing of it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refused("is no URL") from None
    if not _VISIBLE.match(url) or parts.scheme not in _PORTS or not host or port == 0:
        raise _refused("is an https:// URL of at most 2000 visible ASCII characters")
    if "@" in parts.netloc or parts.fragment:
        raise _refused("has no user, password or fragment; escalation_webhook_secret signs what is sent")
    secure = parts.scheme == "https"
    if not (secure or plain_allowed or _is_here(host)):
        raise _refused("begins with https://, unless escalation_webhook_plain is set or the host is this machine")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookAddress(secure, host, port or _PORTS[parts.scheme], target)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refused(why: str) -> SettingsError:
    return SettingsError(f"escalation_webhook_url {why}")
