"""Makes one Redis Cluster of the nodes that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import valkey

from holdfast.embedded.launching import failure
from holdfast.embedded.logs import last_lines
from holdfast.embedded.processes import Deadline, is_alive
from holdfast.embedded.redis import ASK_SECONDS, Node, ask, connected
from holdfast.embedded.redis_config import Ports
from holdfast.embedded.topology import SLOTS, is_settled, missing_steps, parse_view

FORM_SECONDS = 60.0


def form(nodes: Sequence[Node], password: str) -> None:
    """Bring the nodes to one cluster in which every slot is served.

    Raises:
        ServerStartError: they did not get there within FORM_SECONDS.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(node.ports, password)) for node in nodes]
        complaints = ["it was not asked"] * len(nodes)

        def attempt() -> bool | None:
            try:
                return _advance(nodes, clients, complaints) or None
            except valkey.ValkeyError as fault:
                complaints[:] = [f"a node did not answer ({fault})"] * len(nodes)
            _check_alive(nodes)
            return None

        if Deadline(FORM_SECONDS).wait_for(attempt) is None:
            worst = next(index for index, complaint in enumerate(complaints) if complaint)
            node = nodes[worst]
            raise failure(node.files.name, f"no cluster after {FORM_SECONDS:g} s: {complaints[worst]}", node.files.log)


def trouble(ports: Ports | None, password: str) -> str | None:
    """Why a node does not serve its cluster; None when all slots are served."""
    if ports is None:
        return "was never configured"
    try:
        with connected(ports, password, seconds=ASK_SECONDS) as client:
            return _complaint(client)
    except valkey.ValkeyError as fault:
        return str(fault)


def _check_alive(nodes: Sequence[Node]) -> None:
    for node in nodes:
        if not is_alive(node.process):
            raise failure(node.files.name, last_lines(node.files.log), node.files.log)


def _advance(nodes: Sequence[Node], clients: Sequence[valkey.Valkey], complaints: list[str]) -> bool:
    """Take the steps that are missing now; True when there is nothing left to do or to wait for."""
    views = [parse_view(ask(client, "CLUSTER", "NODES")) for client in clients]
    steps = missing_steps(views, [node.ports for node in nodes])
    complaints[:] = [_complaint(client) or "" for client in clients]
    for step in steps:
        try:
            ask(clients[step.node], "CLUSTER", *step.command)
        except valkey.ResponseError as fault:  # what it knows is changing; we look again
            complaints[step.node] = f"CLUSTER {step.command[0]}: {fault}"
    if not is_settled(views):
        complaints[:] = [complaint or "it does not reach the others yet" for complaint in complaints]
    return not steps and not any(complaints)


def _complaint(client: valkey.Valkey) -> str | None:
    state = _fields(ask(client, "CLUSTER", "INFO"))
    if state["cluster_state"] != "ok" or state["cluster_slots_ok"] != str(SLOTS):
        return f"its state is {state['cluster_state']}, with {state['cluster_slots_ok']} of {SLOTS} slots served"
    if client.info("replication").get("master_link_status", "up") != "up":  # type: ignore[union-attr]
        return "it has not yet copied its primary"
    return None


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value for name, _, value in pairs}
