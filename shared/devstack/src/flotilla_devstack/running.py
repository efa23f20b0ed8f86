"""What any stack offers, owned or attached: addresses, private extra servers, and services as processes."""

import contextlib
import itertools
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self, TypeVar

from flotilla_devstack.errors import NotRunningError
from flotilla_devstack.folders import StateDir
from flotilla_devstack.kafka_users import ADMIN as KAFKA_ADMIN
from flotilla_devstack.kafka_users import USERS as KAFKA_USERS
from flotilla_devstack.kafka_users import kafka_login
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.own_agents import agent_environment
from flotilla_devstack.ports import LOOPBACK, free_port
from flotilla_devstack.redis_users import ADMIN, USERS, read_redis_passwords
from flotilla_devstack.servers.base import Home, LocalServer
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import SUPERUSER, PostgresServer, postgres_dsn
from flotilla_devstack.servers.redis import Flavour, RedisServer, redis_url
from flotilla_devstack.servers.temporal import TemporalServer
from flotilla_devstack.services import (
    DATABASE,
    SERVICES,
    ServiceProcess,
    ServiceSpec,
    caller_environment,
    console_environment,
    service_environment,
    signing_key_environment,
)

S = TypeVar("S", bound=LocalServer)


class ServerHandle(Protocol):
    """A server of the stack. Of an attached stack it can be harmed only if that was asked for."""

    name: str

    @property
    def pid(self) -> int | None:
        """The present pid."""

    def kill(self) -> None:
        """kill -9 of the server and its children."""

    def pause(self) -> None:
        """SIGSTOP: alive, connected, and mute."""

    def resume(self) -> None:
        """SIGCONT."""


class RunningStack(ABC):
    """Addresses of running servers, and everything private to the caller beside them.

    Extras and services that are started here belong to the caller: `close` ends them, and so does his own end.
    """

    def __init__(self, state_dir: StateDir) -> None:
        self.state_dir = state_dir
        self._private = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._scratch: Path | None = None
        self.own_agents: Mapping[str, ServiceSpec] = {}
        """Agents beside the six services, by their services' names."""

    @abstractmethod
    def ports(self, name: str) -> Mapping[str, int]:
        """The ports of one server or service by their short names.

        Raises:
            NotRunningError: the stack has no such process.
        """

    @abstractmethod
    def server(self, name: str) -> ServerHandle:
        """One server: postgres, redis, temporal or kafka."""

    def has(self, name: str) -> bool:
        """Whether the stack runs this server."""
        try:
            self.ports(name)
        except NotRunningError:
            return False
        return True

    def close(self) -> None:
        """End what is private to the caller; harmless when repeated."""
        self._private.close()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # Addresses

    def postgres_dsn(self, database: str = DATABASE, user: str = SUPERUSER) -> str:
        """A database of the stack as any role; roles are trusted from loopback unless they were given a password."""
        port = self.ports("postgres")["postgres"]
        return postgres_dsn(self.state_dir.data("postgres"), port, database, user)

    @property
    def redis_url(self) -> str:
        """Database 0, as the administrator; tests keep apart by unique stream names."""
        return self.redis_url_for_user(ADMIN)

    def redis_url_for_user(self, user: str) -> str:
        """Database 0 as one of the users, with the rights that the installer gave it."""
        password = read_redis_passwords(self.state_dir.redis_passwords_file).get(user)
        return redis_url(self.ports("redis")["redis"], user, password)

    @property
    def temporal_address(self) -> str:
        """The gRPC front end, namespace `default`."""
        return f"{LOOPBACK}:{self.ports('temporal')['grpc']}"

    @property
    def temporal_ui_url(self) -> str:
        """For people."""
        return f"http://{LOOPBACK}:{self.ports('temporal')['ui']}"

    @property
    def kafka_bootstrap(self) -> str:
        """One broker; topics have to be created before use."""
        return f"{LOOPBACK}:{self.ports('kafka')['broker']}"

    def kafka_settings(self, user: str | None = KAFKA_ADMIN) -> dict[str, str]:
        """The settings with which `user` reaches Kafka, by their names; None knows only where it is."""
        login = kafka_login(self.state_dir.kafka_passwords_folder, user) if user else {}
        return {"kafka_bootstrap_servers": self.kafka_bootstrap, **login}

    @property
    def has_kafka_users(self) -> bool:
        """Whether this stack has a Kafka that asks for a login."""
        return self.has("kafka") and "kafka_username" in self.kafka_settings()

    def environment(
        self, *, database: str = DATABASE, user: str = SUPERUSER, kafka_user: str | None = KAFKA_ADMIN
    ) -> dict[str, str]:
        """The servers that this stack has, in the variables that every service understands."""
        addresses: dict[str, tuple[str, Callable[[], str]]] = {
            "postgres": ("FLOTILLA_POSTGRES_DSN", lambda: self.postgres_dsn(database, user)),
            "redis": ("FLOTILLA_REDIS_URL", lambda: self.redis_url),
            "temporal": ("FLOTILLA_TEMPORAL_ADDRESS", lambda: self.temporal_address),
        }
        present = {variable: address() for server, (variable, address) in addresses.items() if self.has(server)}
        settings = self.kafka_settings(kafka_user) if self.has("kafka") else {}
        kafka = {f"FLOTILLA_{name.upper()}": value for name, value in settings.items()}
        return {**present, **kafka, **caller_environment()}

    def environment_of(self, service: str, ports: Mapping[str, int], *, database: str = DATABASE) -> dict[str, str]:
        """The variables of a service: the servers (three of them as its own user), its ports and key files."""
        spec = self.own_agents.get(service) or SERVICES[service]
        kafka_user = service if service in KAFKA_USERS else None
        servers = self.environment(database=database, user=spec.role, kafka_user=kafka_user)
        given = {**service_environment(service, ports), **signing_key_environment(service, self.state_dir)}
        if (service in USERS or spec.agent) and self.has("redis"):
            given["FLOTILLA_REDIS_URL"] = self.redis_url_for_user(USERS.get(service, service))
        if spec.agent:
            given |= agent_environment(spec)
        ui_url = self.temporal_ui_url if self.has("temporal") else None
        return {**servers, **given, **console_environment(service, ui_url)}

    # Private processes

    def extra_redis(self, flavour: Flavour = "redis", *, persistent: bool = False) -> RedisServer:
        """A started Redis of the caller's own: `redis` (the machine's), `falkordb` (Redis 8) or `valkey` (Valkey 9).

        Takes milliseconds. It may be killed, paused, restarted; `with` or `close` ends it.
        """
        return self._start_extra(
            "redis", RedisServer.port_names, lambda home: RedisServer(home, flavour=flavour, persistent=persistent)
        )

    def extra_postgres(self, *, settings: Mapping[str, str] | None = None) -> PostgresServer:
        """A started PostgreSQL of the caller's own, in about a second."""
        return self._start_extra(
            "postgres", PostgresServer.port_names, lambda home: PostgresServer(home, settings=settings)
        )

    def extra_temporal(self) -> TemporalServer:
        """A started Temporal dev server of the caller's own, in about half a second."""
        return self._start_extra("temporal", TemporalServer.port_names, TemporalServer)

    def extra_kafka(self) -> KafkaServer:
        """A started Kafka of the caller's own, in about four seconds."""
        return self._start_extra("kafka", KafkaServer.port_names, KafkaServer)

    def service(
        self,
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        database: str = DATABASE,
        argv: tuple[str, ...] | None = None,
    ) -> ServiceProcess:
        """One of the six services as a process of the caller's own, not yet started, on free ports.

        It uses this stack's servers and its own role in `database`; `env` is on top. Several of a kind may run.
        """
        label = f"{name}-{next(self._numbers)}"
        ports = {port: free_port() for port in SERVICES[name].port_variables}
        process = ServiceProcess(
            name,
            env={**self.environment_of(name, ports, database=database), **(env or {})},
            ports=ports,
            log=self.scratch_folder() / f"{label}.log",
            ledger=self._scratch_ledger(),
            argv=argv,
        )
        self._private.callback(process.stop)
        return process

    def scratch_folder(self) -> Path:
        """A temporary folder of the caller's own, removed by `close`; others may pass through it but not list it."""
        if self._scratch is None or not self._scratch.exists():
            self._scratch = Path(tempfile.mkdtemp(prefix="flotilla-extra-"))
            self._scratch.chmod(0o711)
            self._private.callback(shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch

    def _scratch_ledger(self) -> ProcessLedger:
        return ProcessLedger(self.scratch_folder() / "processes.jsonl")

    def _start_extra(self, kind: str, port_names: tuple[str, ...], make: Callable[[Home], S]) -> S:
        label = f"{kind}-{next(self._numbers)}"
        ports = {name: free_port() for name in port_names}
        scratch = self.scratch_folder()
        server = make(Home(scratch / label, scratch / f"{label}.log", ports, self._scratch_ledger()))
        server.prepare(lambda _detail: None, threading.Event())
        self._private.callback(server.stop)
        server.start()
        server.wait_ready()
        server.provision()
        return server

    def __enter__(self) -> Self:
        return self
