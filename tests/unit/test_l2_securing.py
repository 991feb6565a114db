"""What a node of L2 tells of its replicas and of its file."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.tiers.l2_securing import has_replica, is_empty, lines_of
from holdfast.tiers.l2_topology import slot_of

NAME = b"vrooli:events:{ap03}:readers"
SLOT = slot_of(b"ap03")
PRIMARY, REPLICA = [b"10.0.0.1", 7000, b"a", {}], [b"10.0.0.2", 7000, b"b", {}]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([[0, SLOT, PRIMARY, REPLICA]], True),
        ([[0, SLOT - 1, PRIMARY, REPLICA], [SLOT, 16383, PRIMARY]], False),
        ([[0, SLOT - 1, PRIMARY], [SLOT, SLOT, PRIMARY, REPLICA, REPLICA]], True),
        ([], False),
        (b"role:master\r\nconnected_slaves:1\r\n", True),
        (b"role:master\r\nconnected_slaves:0\r\n", False),
    ],
)
def test_whether_the_slot_has_a_replica(reply: Any, *, expected: bool) -> None:
    """By the row of its own slot, or by what a single server says."""
    assert has_replica(reply, NAME) is expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"aof_enabled:1\r\naof_buffer_length:0\r\naof_last_write_status:ok\r\n", True),
        (b"aof_enabled:1\r\naof_buffer_length:17\r\naof_last_write_status:ok\r\n", False),
        (b"aof_enabled:1\r\naof_buffer_length:0\r\naof_last_write_status:err\r\n", False),
        (b"aof_enabled:1\r\naof_last_write_status:ok\r\n", False),
        (b"# Persistence\r\n", False),
    ],
)
def test_whether_all_is_with_the_operating_system(lines: bytes, *, expected: bool) -> None:
    """Nothing is left in the server's own memory, and its last write succeeded; silence is no yes."""
    assert is_empty(lines_of(lines)) is expected
