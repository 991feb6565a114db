"""What a node of L2 tells of its replicas and of its file."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.tiers.l2_securing import connection_of, is_empty, lines_of, replicas_of, unfit_for_a_journal
from holdfast.tiers.l2_topology import slot_of

NAME = b"vrooli:events:{ap03}:readers"
SLOT = slot_of(b"ap03")
PRIMARY, REPLICA = [b"10.0.0.1", 7000, b"a", {}], [b"10.0.0.2", 7000, b"b", {}]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([[0, SLOT, PRIMARY, REPLICA]], 1),
        ([[0, SLOT - 1, PRIMARY, REPLICA], [SLOT, 16383, PRIMARY]], 0),
        ([[0, SLOT - 1, PRIMARY], [SLOT, SLOT, PRIMARY, REPLICA, REPLICA]], 2),
        ([], 0),
        (b"role:master\r\nconnected_slaves:1\r\n", 1),
        (b"role:master\r\nconnected_slaves:0\r\n", 0),
    ],
)
def test_how_many_replicas_the_slot_has(reply: Any, expected: int) -> None:
    """By the row of its own slot, or by what a single server says."""
    assert replicas_of(reply, NAME) == expected


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


def test_connections_of_one_number_are_told_apart() -> None:
    """Each node counts from 1: both ends are a part of what a connection is called; what it did last is not."""
    line = "id=7 addr=10.0.0.9:40001 laddr=10.0.0.1:7000 fd=8 name=holdfast age=%d cmd=client|info user=default\n"
    here = connection_of((line % 1).encode())
    assert connection_of(line % 2) == here
    for old, new in (("id=7", "id=8"), ("10.0.0.9:40001", "10.0.0.9:40002"), ("laddr=10.0.0.1", "laddr=10.0.0.2")):
        assert connection_of((line % 1).replace(old, new)) != here


@pytest.mark.parametrize(
    ("policy", "kept", "is_fit"),
    [
        ("noeviction", "aof_enabled:1", True),
        ("volatile-lru", "aof_enabled:1", True),
        ("volatile-ttl", "aof_enabled:0\r\nconnected_slaves:1", True),
        ("allkeys-lru", "aof_enabled:1", False),
        ("allkeys-random", "aof_enabled:1\r\nconnected_slaves:2", False),
        ("noeviction", "aof_enabled:0\r\nconnected_slaves:0", False),
        ("", "aof_enabled:1", False),
    ],
)
def test_what_may_lose_a_journal_is_unfit_for_it(policy: str, kept: str, *, is_fit: bool) -> None:
    """By evicting it, or since nothing else than memory has it; what says nothing of it is not trusted with it."""
    reason = unfit_for_a_journal("10.0.0.1:7000", f"maxmemory_policy:{policy}\r\n{kept}\r\n".encode())
    assert (reason is None) is is_fit
    assert is_fit or "10.0.0.1:7000" in str(reason)
