"""What a node of L2 tells of its replicas and of its file (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.tiers.l2_topology import slot_of


def has_replica(reply: Any, name: bytes) -> bool:
    """Whether the slot of a name has a replica that may be promoted: by `CLUSTER SLOTS`, else `INFO replication`.

    Args:
        name: with a hash tag.
    """
    if isinstance(reply, bytes | str):
        return lines_of(reply).get("connected_slaves", "0") != "0"
    slot = slot_of(tag_of(name))
    return any(len(row) > 3 for row in reply if row[0] <= slot <= row[1])


def tag_of(name: bytes) -> bytes:
    """The part of a name of ours in braces, by which its slot is chosen."""
    return name[name.index(b"{") + 1 : name.index(b"}")]


def lines_of(reply: bytes | str) -> Mapping[str, str]:
    """The lines of an `INFO`."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def is_empty(file: Mapping[str, str]) -> bool:
    """Whether all that was written before is with the operating system."""
    return file.get("aof_buffer_length") == "0" and file.get("aof_last_write_status") == "ok"
