"""Ray's nodes, started on a machine that has other work: Ray itself gives a node 30 seconds to come up.

Run as a program, ``join ADDRESS`` is a node of the cluster there, and ``head PORT`` one of a cluster of its own with its dashboard, and so
the Jobs API, at this port.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read when Ray is imported: else it leaves the loopback

from ray import _raylet
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams

_UP_WITHIN_S = 200.0
PORTS = {
    "metrics_agent_port": _raylet.METRICS_AGENT_PORT_NAME,
    "metrics_export_port": _raylet.METRICS_EXPORT_PORT_NAME,
    "dashboard_agent_listen_port": _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    "runtime_env_agent_port": _raylet.RUNTIME_ENV_AGENT_PORT_NAME,
}


def be_patient() -> None:
    """From here on in this process."""
    ask = services.get_node

    def get_node(*args: Any, **kwargs: Any) -> Any:
        limit = time.monotonic() + _UP_WITHIN_S
        while True:
            try:
                return ask(*args, **kwargs)
            except RuntimeError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.2)

    services.get_node = get_node
    Node.start_raylet = _with_known_ports(Node.start_raylet)


def _with_known_ports(start_raylet: Callable[..., None]) -> Callable[..., None]:
    """A raylet waits for files in which its agents say their ports, for so long and no longer; here they are known before."""

    def start(node: Any, *args: Any, **kwargs: Any) -> None:
        for setting, name in PORTS.items():
            if port := getattr(node._ray_params, setting, 0):
                _raylet.persist_port(node._session_dir, node._node_id, name, port)
        start_raylet(node, *args, **kwargs)

    return start


def ports() -> dict[str, int]:
    """Free ones for a node's agents."""
    with ExitStack() as stack:
        found = {}
        for name in PORTS:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found[name] = probe.getsockname()[1]
        return found


def node(*, cpus: int = 1, **settings: Any) -> None:
    """A node, as Ray's own tests make them, until SIGTERM."""
    sizes = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": 150 * 2**20, "min_worker_port": 0, "max_worker_port": 0}
    head = "gcs_address" not in settings
    Node(RayParams(node_ip_address="127.0.0.1", **sizes, **ports(), **settings), head=head, shutdown_at_exit=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    be_patient()
    match sys.argv[1:]:
        case ["join", address]:
            node(gcs_address=address)
        case ["head", port]:
            node(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=int(port))
