"""Keys for tests, and secrets that are found wherever they are."""

from __future__ import annotations

import random
from collections.abc import Callable

from holdfast.sensitivity.data_keys import DataKey
from holdfast.sensitivity.known_keys import KnownKeys, Sealer
from holdfast.sensitivity.master_keys import master_key_line

OLD = master_key_line("old", b"o" * 32)
NEW = master_key_line("new", b"n" * 32)
"""Two master keys, as the setting has them."""


def entropy(seed: int = 0) -> Callable[[int], bytes]:
    """What is random in a test, and the same each time."""
    return random.Random(seed).randbytes


def known_keys(seed: int = 0, *, key_id: str = "k1") -> KnownKeys:
    """A server's keys: one to seal with."""
    keys, key = KnownKeys(), DataKey(key_id, b"d" * 32)
    keys.learn(key)
    keys.sealer = Sealer(key, entropy(seed))
    return keys
