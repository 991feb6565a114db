"""What a node of L2 tells of its replicas and of its file (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.tiers.l2_topology import slot_of


def replicas_of(reply: Any, name: bytes) -> int:
    """How many replicas of a name's slot may be promoted: by `CLUSTER SLOTS`, else `INFO replication`.

    Args:
        name: with a hash tag.
    """
    if isinstance(reply, bytes | str):
        return int(lines_of(reply).get("connected_slaves", "0"))
    slot = slot_of(tag_of(name))
    return max((len(row) - 3 for row in reply if row[0] <= slot <= row[1]), default=0)


def tag_of(name: bytes) -> bytes:
    """The part of a name of ours in braces, by which its slot is chosen."""
    return name[name.index(b"{") + 1 : name.index(b"}")]


def lines_of(reply: bytes | str) -> Mapping[str, str]:
    """The lines of an `INFO`."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def connection_of(reply: bytes | str) -> str:
    """Which connection answered a `CLIENT INFO`: its number, and both its ends."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    words = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return " ".join(words.get(name, "") for name in ("id", "addr", "laddr"))


def is_empty(file: Mapping[str, str]) -> bool:
    """Whether all that was written before is with the operating system."""
    return file.get("aof_buffer_length") == "0" and file.get("aof_last_write_status") == "ok"


def unfit_for_a_journal(node: str, reply: bytes | str) -> str | None:
    """Why a node cannot keep what must not be lost, by its `INFO`; None: it can."""
    lines = lines_of(reply)
    policy = lines.get("maxmemory_policy", "").strip()
    if policy != "noeviction" and not policy.startswith("volatile-"):
        return (
            f"{node} has maxmemory-policy {policy or 'unknown'}: it may evict a journal; set noeviction or volatile-*"
        )
    if lines.get("aof_enabled") != "1" and lines.get("connected_slaves", "0") == "0":
        return f"{node} has neither a replica nor an append-only file: a journal would end with its process"
    return None
