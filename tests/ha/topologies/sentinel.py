"""A primary of Redis with a replica, and three sentinels that watch them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import redis

from flotilla_devstack import RunningStack
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.servers.redis import RedisServer, find_redis, redis_version
from flotilla_devstack.tools import clean_environment
from flotilla_devstack.waiting import wait_until

PRIMARY = "flotilla"
_PROBE_TIMEOUT_S = 0.5
_QUORUM = 2


class SentinelServer(LocalServer):
    """One sentinel of the machine's own Redis."""

    port_names: ClassVar[tuple[str, ...]] = ("sentinel",)
    start_timeout_s = 20.0

    def __init__(self, home: Home, *, primary_port: int, password: str | None) -> None:
        super().__init__(name="sentinel", home=home)
        self._primary_port = primary_port
        self._password = password

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Write the file that a sentinel rewrites as it learns."""
        del report, cancelled
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [
            f"port {self.ports['sentinel']}",
            f"bind {LOOPBACK}",
            f"dir {self.folder}",
            f"sentinel monitor {PRIMARY} {LOOPBACK} {self._primary_port} {_QUORUM}",
            f"sentinel down-after-milliseconds {PRIMARY} 1000",
            f"sentinel failover-timeout {PRIMARY} 6000",
            *([f"requirepass {self._password}"] if self._password else []),
            *([f"sentinel sentinel-pass {self._password}"] if self._password else []),
        ]
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def find_version(self) -> str:
        """Such as `Redis 7.0.15`."""
        return redis_version(find_redis("redis"))

    def command(self) -> ProcessCommand:
        """The server's program in its other role."""
        argv = (str(find_redis("redis")), str(self.folder / "sentinel.conf"), "--sentinel")
        return ProcessCommand(argv, clean_environment(), self.folder)

    def probe(self) -> bool:
        """It listens."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["sentinel"]), _PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False


@dataclass
class Watched:
    """What the sentinels watch; who is primary changes."""

    servers: tuple[RedisServer, RedisServer]
    sentinels: list[SentinelServer]
    password: str | None = None

    @property
    def url(self) -> str:
        """For clients."""
        hosts = ",".join(f"{LOOPBACK}:{each.ports['sentinel']}" for each in self.sentinels)
        login = f"?sentinel_password={self.password}" if self.password else ""
        return f"redis+sentinel://{hosts}/{PRIMARY}/0{login}"

    @property
    def primary(self) -> RedisServer:
        """The one that takes writes."""
        return next(each for each in self.servers if each.is_running() and _role(each) == "master")

    def switch_over(self) -> None:
        """Have the sentinels promote the replica, with everything alive; returns when they agree on it."""
        old = self.primary
        _ask(self.sentinels[0].ports["sentinel"], "SENTINEL", "FAILOVER", PRIMARY, password=self.password)
        self.wait_for_another_than(old)

    def watch_the_other_instead(self) -> None:
        """Make the replica a primary of its own, and name that one alone; the old one notices nothing."""
        other = next(each for each in self.servers if each is not self.primary)
        _ask(other.ports["redis"], "REPLICAOF", "NO", "ONE")
        for sentinel in self.sentinels:
            port = sentinel.ports["sentinel"]
            _ask(port, "SENTINEL", "REMOVE", PRIMARY)
            _ask(port, "SENTINEL", "MONITOR", PRIMARY, LOOPBACK, str(other.ports["redis"]), str(_QUORUM))

    def wait_for_another_than(self, old: RedisServer) -> None:
        """Return when every sentinel names the other server."""
        other = next(each for each in self.servers if each is not old)
        wait_until(
            lambda: all(self._named_by(each) == other.ports["redis"] for each in self.sentinels if each.is_running()),
            timeout_s=60,
            what="another primary",
        )

    def know_each_other(self) -> bool:
        """Whether each sentinel knows the two others and the replica, which a switchover needs."""
        return all(self._knows(each) for each in self.sentinels)

    def _knows(self, sentinel: SentinelServer) -> bool:
        with redis.Redis(port=sentinel.ports["sentinel"], password=self.password) as client:
            state = client.sentinel_master(PRIMARY)
        return int(state["num-other-sentinels"]) == len(self.sentinels) - 1 and int(state["num-slaves"]) == 1

    def _named_by(self, sentinel: SentinelServer) -> int:
        with redis.Redis(port=sentinel.ports["sentinel"], password=self.password) as client:
            return int(client.sentinel_get_master_addr_by_name(PRIMARY)[1])


def _role(server: RedisServer) -> str:
    with redis.Redis(port=server.ports["redis"], socket_timeout=2) as client:
        return str(client.role()[0].decode())


def _ask(port: int, *command: str, password: str | None = None) -> None:
    with redis.Redis(port=port, password=password, socket_timeout=5) as client:
        client.execute_command(*command)


@contextmanager
def watched_redis(stack: RunningStack, password: str | None = None) -> Iterator[Watched]:
    """All five, started; the sentinels know each other. `password` is that of the sentinels."""
    servers = (stack.extra_redis(), stack.extra_redis())
    with redis.Redis(port=servers[1].ports["redis"]) as client:
        client.replicaof(LOOPBACK, str(servers[0].ports["redis"]))
    port = servers[0].ports["redis"]
    sentinels = [
        stack._start_extra(
            "sentinel",
            SentinelServer.port_names,
            lambda home: SentinelServer(home, primary_port=port, password=password),
        )
        for _ in range(3)
    ]
    watched = Watched(servers, sentinels, password)
    try:
        wait_until(watched.know_each_other, timeout_s=30, what="sentinels that know each other")
        yield watched
    finally:
        for each in (*sentinels, *servers):
            each.stop()
