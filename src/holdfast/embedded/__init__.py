"""The embedded default: a real PostgreSQL and a real Valkey cluster from wheels; no root, no Docker."""

from holdfast.embedded.servers import (
    EmbeddedOptions,
    Running,
    ServerStatus,
    default_home,
    ensure_running,
    status,
    stop,
)

__all__ = ["EmbeddedOptions", "Running", "ServerStatus", "default_home", "ensure_running", "status", "stop"]
