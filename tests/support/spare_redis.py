"""Redis servers that one test uses after the other, each time as if new: to start and stop one takes 50 ms of a
processor, hundreds of times.

A server that a test killed, stopped, configured or made a replica is not used again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis, RedisError

from flotilla_devstack import RunningStack
from flotilla_devstack.servers.redis import Flavour, RedisServer

_EMPTIED = (
    ("FLUSHALL", "SYNC"),
    ("FUNCTION", "FLUSH", "SYNC"),
    ("SCRIPT", "FLUSH", "SYNC"),
    ("CONFIG", "RESETSTAT"),
    ("SLOWLOG", "RESET"),
    ("LATENCY", "RESET"),
    ("ACL", "LOG", "RESET"),
)
_ANSWER_S = 5.0


@dataclass(frozen=True)
class _Looks:
    """What a server is, beside its data."""

    run_id: str
    role: str
    settings: object
    users: object


@dataclass
class _Spare:
    server: RedisServer
    new: _Looks


class SpareServers:
    """Those of one test process."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack
        self._spare: list[_Spare] = []

    @contextmanager
    def server(self, flavour: Flavour = "redis") -> Iterator[RedisServer]:
        """A server with an append-only file, for as long as the block runs: it may be harmed."""
        used = self._taken(flavour)
        try:
            yield used.server
        finally:
            if _is_as_new(used):
                self._spare.append(used)
            else:
                used.server.stop()

    def stop(self) -> None:
        """Stop those that nobody uses."""
        while self._spare:
            self._spare.pop().server.stop()

    def _taken(self, flavour: Flavour) -> _Spare:
        for found in self._spare:
            if found.server.flavour == flavour:
                self._spare.remove(found)
                return found
        server = self._stack.extra_redis(flavour, persistent=True)
        with Redis.from_url(server.url, decode_responses=True) as client:
            return _Spare(server, _looks(client))


def _is_as_new(used: _Spare) -> bool:
    """Empty the server; return whether nothing of the test is left in it."""
    with Redis.from_url(used.server.url, decode_responses=True, socket_timeout=_ANSWER_S, retry=None) as client:
        try:
            client.execute_command("CLIENT", "KILL", "SKIPME", "yes")
            for user in set(client.acl_users()) - {"default"}:
                client.acl_deluser(user)
            if _looks(client) != used.new:
                return False
            for command in _EMPTIED:
                client.execute_command(*command)
            return bool(client.dbsize() == 0)
        except (RedisError, OSError):
            return False


def _looks(client: Redis) -> _Looks:
    known = client.info("everything")
    return _Looks(run_id=known["run_id"], role=known["role"], settings=client.config_get("*"), users=client.acl_list())
