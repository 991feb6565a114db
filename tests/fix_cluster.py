"""A cluster of two Valkeys of a test's own: its slots can be moved, its nodes filled up."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from holdfast.embedded.binaries import valkey_server
from holdfast.tiers.l2_topology import SLOTS

HALF = SLOTS // 2
FORM_SECONDS = 30.0
POLL_SECONDS = 0.01
"""Between two looks: a node waits for two seconds before it calls its cluster formed, and others need the processor."""


def free_port() -> int:
    """A port below those that Linux gives to outgoing connections, whose bus port (10000 above) is free too."""
    for port in random.SystemRandom().sample(range(16_000, 22_000), 200):  # other workers look for one too
        with socket.socket() as client, socket.socket() as bus:
            try:
                client.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class ClusterNode:
    """One node."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        settings = {"port": self.port, "bind": "127.0.0.1", "cluster-enabled": "yes", "save": "", "appendonly": "no"}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen([valkey_server(), *arguments], cwd=folder, stdout=subprocess.DEVNULL)
        self._client = valkey.Valkey(port=self.port, retry=None)

    def ask(self, *words: str | bytes | int) -> Any:
        """Send a command to this node; while it starts, until it listens."""
        deadline = time.monotonic() + FORM_SECONDS
        while True:
            try:
                return self._client.execute_command(*words)  # type: ignore[no-untyped-call]
            except valkey.ConnectionError:
                assert self._process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(POLL_SECONDS)

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        answer: bytes = self.ask("CLUSTER", "MYID")
        return answer.decode()

    def kill(self) -> None:
        """Kill -9."""
        self._client.close()  # type: ignore[no-untyped-call]
        self._process.kill()
        self._process.wait()


class Cluster:
    """Two nodes, each with half of the slots."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [ClusterNode(folder / name) for name in ("a", "b")]
        for epoch, (node, first) in enumerate(zip(self.nodes, (0, HALF), strict=True), start=1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, first + HALF - 1)
        self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[1].port)
        deadline = time.monotonic() + FORM_SECONDS
        while not all(self._is_formed(node) for node in self.nodes):
            assert time.monotonic() < deadline, "no cluster was formed"
            time.sleep(POLL_SECONDS)

    @property
    def urls(self) -> tuple[str, ...]:
        """Of the nodes."""
        return tuple(f"redis://127.0.0.1:{node.port}" for node in self.nodes)

    def move(self, slot: int, source: int, target: int) -> None:
        """Move a slot, with its keys, from one node to the other."""
        old, new = self.nodes[source], self.nodes[target]
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        new.ask("CLUSTER", "SETSLOT", slot, "NODE", new.id)
        old.ask("CLUSTER", "SETSLOT", slot, "NODE", new.id)

    def begin_move(self, slot: int, source: int, target: int) -> None:
        """Announce that a slot is being moved; its keys stay where they are."""
        old, new = self.nodes[source], self.nodes[target]
        new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", old.id)
        old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new.id)

    def move_keys(self, slot: int, source: int, target: int) -> None:
        """Bring the keys of a slot that is being moved to the other node."""
        old, new = self.nodes[source], self.nodes[target]
        for name in old.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            old.ask("MIGRATE", "127.0.0.1", new.port, name, 0, 5000)

    def stop(self) -> None:
        """Kill the nodes."""
        for node in self.nodes:
            node.kill()

    @staticmethod
    def _is_formed(node: ClusterNode) -> bool:
        told = node.ask("CLUSTER", "INFO")
        return b"cluster_state:ok" in told and b"cluster_slots_ok:16384" in told


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster of two nodes."""
    running = Cluster(tmp_path)
    yield running
    running.stop()
