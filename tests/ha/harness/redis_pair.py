"""Redis as a primary with a replica, which can be promoted."""

from typing import Any

import redis

from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.servers.redis import RedisServer
from flotilla_devstack.waiting import wait_until


class RedisPair:
    """Who is primary changes by `promote`. Replication is asynchronous, as Redis knows no other."""

    def __init__(self, primary: RedisServer, replica: RedisServer) -> None:
        self.primary = primary
        self.replica = replica

    def promote(self) -> RedisServer:
        """Promote the replica, whatever the primary does, and return it."""
        self.primary, self.replica = self.replica, self.primary
        _ask(self.primary, "REPLICAOF", "NO", "ONE")
        return self.primary

    def separate(self) -> None:
        """End the replication: the replica keeps what it has, and refuses writes."""
        _ask(self.replica, "REPLICAOF", LOOPBACK, "1")

    def rejoin(self) -> None:
        """Make the replica, started if necessary, follow the primary; returns when it has everything."""
        self.replica.start()
        self.replica.wait_ready()
        _ask(self.replica, "REPLICAOF", LOOPBACK, str(self.primary.ports["redis"]))
        wait_until(self._follows, timeout_s=60, what="a replica of Redis")

    def _follows(self) -> bool:
        role = _ask(self.replica, "ROLE")
        return bool(role[0] == b"slave" and role[3] == b"connected")


def _ask(server: RedisServer, *command: str) -> Any:
    with redis.Redis(port=server.ports["redis"], socket_timeout=5) as client:
        return client.execute_command(*command)
