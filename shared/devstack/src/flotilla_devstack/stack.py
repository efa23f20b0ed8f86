"""Stacks: one that is owned and started here, and one that runs already."""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from flotilla_devstack.attached import AttachedProcess
from flotilla_devstack.errors import DevstackError, NotRunningError
from flotilla_devstack.folders import StateDir, StateLock
from flotilla_devstack.kafka_users import ensure_kafka_passwords
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.ports import PortAssignments
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.progress import Listener, ignore_progress
from flotilla_devstack.redis_users import ADMIN, ensure_redis_passwords
from flotilla_devstack.running import RunningStack
from flotilla_devstack.servers.base import Home, LocalServer
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from flotilla_devstack.servers.redis import Flavour, RedisServer
from flotilla_devstack.servers.temporal import TemporalServer
from flotilla_devstack.services import DATABASE, DEFAULT_HTTP_PORT, SERVICES, ServiceSpec
from flotilla_devstack.startup import run_in_parallel, start_server, stop_unit
from flotilla_devstack.status import StackState, StatusFile, find_process_entry, read_stack_status
from flotilla_devstack.unit import ManagedProcess

_KINDS: Mapping[str, type[LocalServer]] = {
    "postgres": PostgresServer,
    "redis": RedisServer,
    "temporal": TemporalServer,
    "kafka": KafkaServer,
}
SERVERS = tuple(_KINDS)
ATTACH_VARIABLE = "FLOTILLA_TEST_STACK"


def requestable_port_names() -> list[str]:
    """The names under which a port can be asked for, like `gateway.http`."""
    servers = [f"{server}.{port}" for server, kind in _KINDS.items() for port in kind.port_names]
    return servers + [f"{name}.{port}" for name, service in SERVICES.items() for port in service.port_variables]


class Stack(RunningStack):
    """Real servers on loopback, started side by side by `start` or `with`, and stopped by `close`.

    One process owns a state folder at a time (a lock); what a killed owner left behind is ended first. Nothing outlives
    the owner: not its normal end, not Ctrl-C, not kill -9. Data and ports stay in the folder for the next time.
    """

    def __init__(
        self,
        state_dir: Path | str,
        servers: Sequence[str] = SERVERS,
        *,
        ports: Mapping[str, int] | None = None,
        redis_flavour: Flavour = "redis",
        postgres_settings: Mapping[str, str] | None = None,
        kafka_users: bool = False,
        on_progress: Listener = ignore_progress,
    ) -> None:
        """`ports` maps names such as `temporal.ui` to the ports to use instead of free ones.

        With `kafka_users` Kafka accepts nobody without a login; in a folder where it did before, it does again.
        """
        super().__init__(StateDir(Path(state_dir)))
        self.servers: dict[str, LocalServer] = {}
        self.services: list[ManagedProcess] = []
        """What the supervisor runs beside the servers; part of the status."""
        self.cancelled = threading.Event()
        self.ledger = ProcessLedger(self.state_dir.ledger_file)
        self._names = tuple(servers)
        self._requested_ports = dict(ports or {})
        self._redis_flavour: Flavour = redis_flavour
        self._postgres_settings = dict(postgres_settings or {})
        self._kafka_users = kafka_users
        self._listener = on_progress
        self._lock = StateLock(self.state_dir.lock_file)
        self._book: PortAssignments | None = None
        self._state: StackState = "stopped"
        self._board = StatusFile(self.state_dir, ProcessIdentity.of(os.getpid()))

    @staticmethod
    def attach(state_dir: Path | str, *, control: bool = False) -> "AttachedStack":
        """Use a stack that somebody else runs; see AttachedStack."""
        return AttachedStack(Path(state_dir), control=control)

    def start(self) -> Self:
        """Start every server side by side and wait until all are ready: all or nothing.

        Raises:
            StateLockedError: another process owns the state folder.
            DevstackError: a server did not come up; the others were stopped again.
        """
        self.lock_state_folder()
        try:
            self.ledger.kill_survivors()
            self.start_servers()
            self.post("ready")
        except BaseException:
            self.close("failed")
            raise
        return self

    def lock_state_folder(self) -> None:
        """Take the state folder's lock; `close` gives it back.

        Raises:
            StateLockedError: another process owns the folder.
        """
        self.state_dir.create_folders()
        self._lock.acquire()

    def start_servers(self) -> None:
        """Take every server from nothing to ready, side by side; one that fails makes the others give up."""
        self.servers = {name: self._make(name) for name in self._names}
        for server in self.servers.values():
            server.on_change = self.post
        self.post("starting")
        run_in_parallel(list(self.servers.values()), self._bring_up, self.cancelled)

    def __enter__(self) -> Self:
        return self.start()

    def close(self, final: StackState = "stopped") -> None:
        """Stop private processes, then the servers side by side, and give the folder back; harmless when repeated."""
        super().close()
        self.stop_servers()
        if self._book is not None:
            self.post(final)
            self._book.release_ports()
            self._book = None
        self._lock.release()

    def stop_servers(self) -> None:
        """Stop the servers in order (Kafka's clean stop, PostgreSQL's fast shutdown), side by side."""
        running = [server for server in self.servers.values() if server.is_running()]
        run_in_parallel(running, lambda server: stop_unit(server, self._listener), threading.Event())

    def ports(self, name: str) -> Mapping[str, int]:
        """See RunningStack."""
        return self.server(name).ports

    def server(self, name: str) -> LocalServer:
        """A server that may be killed, paused, resumed, restarted."""
        if name not in self.servers:
            raise NotRunningError(f"this stack has no {name}; it has: {', '.join(self.servers) or 'nothing yet'}")
        return self.servers[name]

    def assign_ports(self, owner: str, names: Sequence[str]) -> dict[str, int]:
        """Ports for one more process of this stack, the same each time."""
        if self._book is None:
            preferred = {"gateway.http": DEFAULT_HTTP_PORT}
            self._book = PortAssignments(self.state_dir.ports_file, self._requested_ports, preferred)
        return self._book.assign_ports(owner, tuple(names))

    def post(self, state: StackState | None = None) -> None:
        """Write `status.json`, with a new state of the whole if given."""
        self._state = state or self._state
        self._board.post(self._state, [*self.servers.values(), *self.services])

    def add_services_to_status(self, services: Sequence[ManagedProcess]) -> None:
        """Make these part of the status, from now on and at each change."""
        self.services = list(services)
        for unit in services:
            unit.on_change = self.post
        self.post()

    def register_agents(self, agents: Mapping[str, ServiceSpec]) -> None:
        """Know these agents, too, each with a password for its Redis user."""
        self.own_agents = {**self.own_agents, **agents}
        ensure_redis_passwords(self.state_dir.redis_passwords_file, self.own_agents)

    def create_database(self, name: str) -> None:
        """Make a database; one that exists is left as it is."""
        self._postgres().create_database(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and everyone's sessions in it."""
        self._postgres().drop_database(name)

    def _postgres(self) -> PostgresServer:
        server = self.server("postgres")
        assert isinstance(server, PostgresServer)  # noqa: S101 - by _make
        return server

    def _make(self, name: str) -> LocalServer:
        makers: dict[str, Callable[[Home], LocalServer]] = {
            "postgres": lambda home: PostgresServer(home, database=DATABASE, settings=self._postgres_settings),
            "redis": lambda home: RedisServer(
                home,
                flavour=self._redis_flavour,
                password=ensure_redis_passwords(self.state_dir.redis_passwords_file, self.own_agents)[ADMIN],
            ),
            "temporal": TemporalServer,
            "kafka": lambda home: KafkaServer(home, passwords=self._kafka_passwords()),
        }
        if name not in makers:
            raise DevstackError(f"there is no server called {name}; there are: {', '.join(makers)}")
        ports = self.assign_ports(name, _KINDS[name].port_names)
        return makers[name](Home(self.state_dir.data(name), self.state_dir.log_file(name), ports, self.ledger))

    def _kafka_passwords(self) -> dict[str, str]:
        folder = self.state_dir.kafka_passwords_folder
        return ensure_kafka_passwords(folder) if self._kafka_users or folder.exists() else {}

    def _bring_up(self, server: LocalServer) -> None:
        start_server(server, self._listener, self.cancelled)


class AttachedStack(RunningStack):
    """A stack that somebody else runs: its addresses, and never its end.

    With `control=True` its processes may be killed, paused and resumed; their supervisor starts dead ones again.

    Raises:
        NotRunningError: no stack runs there.
    """

    def __init__(self, state_dir: Path, *, control: bool = False) -> None:
        super().__init__(StateDir(state_dir))
        self._control = control
        state = read_stack_status(self.state_dir)["state"]
        if state != "ready":
            raise NotRunningError(f"the stack in {state_dir} is {state}, not ready")

    def ports(self, name: str) -> Mapping[str, int]:
        """See RunningStack."""
        return self.server(name).ports

    def server(self, name: str) -> AttachedProcess:
        """A server of the stack; also a service, by its name."""
        find_process_entry(read_stack_status(self.state_dir), name)
        return AttachedProcess(self.state_dir, name, control=self._control)


@contextlib.contextmanager
def stack_for_tests(
    servers: Sequence[str] = SERVERS,
    on_progress: Listener = ignore_progress,
    *,
    postgres_settings: Mapping[str, str] | None = None,
) -> Iterator[RunningStack]:
    """The running stack that `FLOTILLA_TEST_STACK` names, else one of the tests' own in a folder that is removed.

    Raises:
        NotRunningError: no stack runs there.
        DevstackError: its Kafka asks for a login.
    """
    if shared := os.environ.get(ATTACH_VARIABLE):
        with AttachedStack(Path(shared)) as attached:
            if "kafka" in servers and attached.has_kafka_users:
                raise DevstackError(
                    f"Kafka of the stack in {shared} asks for a login, as that of each stack that ever ran services; "
                    f"tests use topics of their own: name one in {ATTACH_VARIABLE} that was started in an empty folder "
                    "with --services ''"
                )
            yield attached
        return
    folder = Path(tempfile.mkdtemp(prefix="flotilla-tests-"))
    folder.chmod(0o711)
    try:
        with Stack(folder, servers, postgres_settings=postgres_settings, on_progress=on_progress) as stack:
            yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)
