"""The replicated servers of one fleet, and the proxies through which its services reach them."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from flotilla_devstack.folders import StateDir
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.ports import LOOPBACK, PortAssignments
from flotilla_devstack.progress import ignore_progress
from flotilla_devstack.servers.base import Home, LocalServer
from flotilla_devstack.servers.redis import RedisServer
from flotilla_devstack.servers.temporal import TemporalServer
from flotilla_devstack.startup import run_in_parallel, start_server
from tests.ha.harness.brokers import NODES, Broker, Brokers
from tests.ha.harness.postgres_pair import PostgresNode, PostgresPair
from tests.ha.harness.proxy import Network, Proxy
from tests.ha.harness.redis_pair import RedisPair

DATABASE = "flotilla"
S = TypeVar("S", bound=LocalServer)


class Servers:
    """Brokers, two PostgreSQL, two Redis, one Temporal. `start` brings all of them up, `stop` ends them."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(folder).create_folders()
        self.ledger = ProcessLedger(self.state.ledger_file)
        self.network = Network()
        self._book = PortAssignments(self.state.ports_file, {})
        self.brokers = self._make_brokers()
        self.postgres = PostgresPair(*(self._make(name, PostgresNode) for name in ("postgres-1", "postgres-2")))
        self.redis = RedisPair(*(self._make(name, RedisServer) for name in ("redis-1", "redis-2")))
        self.temporal = self._make("temporal", TemporalServer)
        self.to_postgres = self._proxy("to-postgres", self.postgres.primary.ports["postgres"])
        self.to_redis = self._proxy("to-redis", self.redis.primary.ports["redis"])
        self.to_temporal = self._proxy("to-temporal", self.temporal.ports["grpc"])

    @property
    def all(self) -> Sequence[LocalServer]:
        """Every server."""
        pairs = (self.postgres.primary, self.postgres.standby, self.redis.primary, self.redis.replica)
        return (*self.brokers.nodes, *pairs, self.temporal)

    def ports(self, owner: str, names: Sequence[str]) -> dict[str, int]:
        """Ports for one more process, claimed."""
        return self._book.assign_ports(owner, tuple(names))

    def start(self) -> None:
        """Bring all up side by side, then replicate."""
        run_in_parallel(
            self.all, lambda server: start_server(server, ignore_progress, threading.Event()), threading.Event()
        )
        self.postgres.primary.create_database(DATABASE)
        self.postgres.rejoin()
        self.redis.rejoin()

    def stop(self) -> None:
        """End all; harmless when repeated."""
        self.network.close()
        for server in self.all:
            if server.is_running():
                server.kill()
        self._book.release_ports()

    def dsn(self, role: str) -> str:
        """PostgreSQL for the services: by the proxy."""
        return f"postgresql://{role}@{LOOPBACK}:{self.to_postgres.port}/{DATABASE}"

    def environment(self, role: str) -> dict[str, str]:
        """What a service needs to know of the servers."""
        return {
            "FLOTILLA_POSTGRES_DSN": self.dsn(role),
            "FLOTILLA_REDIS_URL": f"redis://{LOOPBACK}:{self.to_redis.port}/0",
            "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": self.brokers.bootstrap,
            "FLOTILLA_KAFKA_DURABILITY": "required",
            "FLOTILLA_TEMPORAL_ADDRESS": f"{LOOPBACK}:{self.to_temporal.port}",
        }

    def _make(self, name: str, kind: Callable[..., S], **options: object) -> S:
        ports = self.ports(name, kind.port_names)  # type: ignore[attr-defined]
        return kind(Home(self.state.data(name), self.state.log_file(name), ports, self.ledger), name=name, **options)

    def _make_brokers(self) -> Brokers:
        numbers = range(1, NODES + 1)
        ports = {number: self.ports(f"kafka-{number}", Broker.port_names) for number in numbers}
        proxies = {number: self._proxy(f"to-kafka-{number}", ports[number]["client"]) for number in numbers}
        controllers = {number: ports[number]["controller"] for number in numbers}
        nodes = [
            Broker(
                Home(self.state.data(f"kafka-{n}"), self.state.log_file(f"kafka-{n}"), ports[n], self.ledger),
                number=n,
                controllers=controllers,
                advertised=proxies[n].port,
            )
            for n in numbers
        ]
        return Brokers(nodes, list(proxies.values()))

    def _proxy(self, name: str, upstream: int) -> Proxy:
        return self.network.proxy(self.ports(name, ("proxy",))["proxy"], upstream)
