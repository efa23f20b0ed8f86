"""Runs the whole local stack in one process: `python -m flotilla_devstack.supervisor --state DIR`.

Servers first, then `python -m flotilla.install` (migrations, topics, groups, keys), then the six services; whatever
ends on its own is started again. SIGTERM and Ctrl-C stop services first, then servers. All or nothing: what does not
come up makes the rest stop again, and the process end with 1.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flotilla_devstack.errors import DevstackError, InterruptedStartError, StateLockedError
from flotilla_devstack.folders import default_state_dir
from flotilla_devstack.keeper import ProcessWatchdog
from flotilla_devstack.own_agents import agent_command, read_agent_folders, take_requested_agents
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import call_after_exit
from flotilla_devstack.progress import Listener, PhaseReporter, ProgressEvent, ProgressJournal
from flotilla_devstack.servers.redis import FLAVOURS, Flavour
from flotilla_devstack.services import BUILT_IN_AGENTS, FOUND_AT, SERVICES, ServiceProcess
from flotilla_devstack.stack import SERVERS, Stack
from flotilla_devstack.startup import run_in_parallel, stop_unit
from flotilla_devstack.tools import run_program

_TICK_S = 0.1
_INSTALL_TIMEOUT_S = 120.0
OWNER_VARIABLE = "FLOTILLA_DEVSTACK_OWNER"
"""The process id of who needs the stack: without it, the stack ends. A test run that is killed leaves nothing."""
EXIT_DONE, EXIT_FAILED, EXIT_LOCKED = 0, 1, 3


@dataclass(frozen=True)
class SupervisorOptions:
    """What to run, and where. `install` is the command that prepares the servers for the services; empty: none."""

    state: Path = field(default_factory=default_state_dir)
    servers: tuple[str, ...] = SERVERS
    services: tuple[str, ...] = tuple(SERVICES)
    agents: tuple[Path, ...] = ()
    """Folders of agents of one's own."""
    ports: tuple[tuple[str, int], ...] = ()
    redis_flavour: Flavour = "redis"
    install: tuple[str, ...] = (sys.executable, "-m", "flotilla.install")

    def to_arguments(self) -> list[str]:
        """These options as the supervisor's command line."""
        words = ["--state", str(self.state), "--servers", ",".join(self.servers), "--services", ",".join(self.services)]
        words += ["--redis", self.redis_flavour]
        for folder in self.agents:
            words += ["--agent", str(folder)]
        for name, port in self.ports:
            words += ["--port", f"{name}={port}"]
        return words if self.install else [*words, "--no-install"]


class StackSupervisor:
    """One life of the stack."""

    def __init__(self, options: SupervisorOptions, echo: Listener) -> None:
        self._options = options
        self._echo = echo
        self._stack = Stack(
            options.state,
            options.servers,
            ports=dict(options.ports),
            redis_flavour=options.redis_flavour,
            kafka_users=bool(options.services) and bool(options.install),
            on_progress=self._report,
        )
        self._stack.own_agents = read_agent_folders(options.agents)
        self._state_dir = self._stack.state_dir
        self._journal = ProgressJournal(self._state_dir.journal_file)
        self._services: list[ServiceProcess] = []
        self._watch = PhaseReporter("stack", "stack", self._report)

    def stop(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        self._stack.cancelled.set()

    def run(self) -> int:
        """Bring everything up, keep it up until asked to stop, take everything down.

        Raises:
            StateLockedError: another supervisor or test owns the state folder.
        """
        self._stack.lock_state_folder()
        self._journal.start_new_journal()
        self._watch.report_phase("starting", f"state in {self._state_dir.root}")
        try:
            self._bring_up()
            self._keep()
        except InterruptedStartError:
            return self._end(EXIT_DONE)
        except Exception as error:  # noqa: BLE001 - the end of a supervisor: told to followers, and by exit code
            return self._end(EXIT_FAILED, error)
        except BaseException:
            self._end(EXIT_FAILED)
            raise
        return self._end(EXIT_DONE)

    def _bring_up(self) -> None:
        for name in self._stack.ledger.kill_survivors():
            self._watch.report_phase("starting", f"ended {name}, left behind by a killed supervisor")
        take_requested_agents(self._state_dir)  # asked of a supervisor that was killed before it answered
        self._stack.start_servers()
        self._install()
        self._services = self._make_all((*self._options.services, *self._stack.own_agents))
        self._stack.add_services_to_status(self._services)
        run_in_parallel(self._services, self._start_service, self._stack.cancelled)
        self._stack.post("ready")
        self._watch.report_phase("ready")

    def _keep(self) -> None:
        units = [*self._stack.servers.values(), *self._services]
        keeper = ProcessWatchdog(units, self._report)
        while not self._stack.cancelled.wait(_TICK_S):
            if self._state_dir.wanted_agents_file.exists():
                keeper.add_units(self._add_agents())
            keeper.tick(time.monotonic())

    def _add_agents(self) -> list[ServiceProcess]:
        """Run the agents that `up` asks for beside what runs; one that does not come up is stopped again."""
        self._stack.post("starting")  # before the request goes: `up` waits for "ready" from then on
        try:
            present = {service.name for service in self._services}
            wanted = read_agent_folders(take_requested_agents(self._state_dir))
            found = {name: spec for name, spec in wanted.items() if name not in present}
            self._stack.register_agents(found)
            self._install()
            return self._running(self._make_all(found))
        except InterruptedStartError:
            raise
        except DevstackError as error:
            self._watch.report_phase("starting", f"no agent was added: {error}")
            return []
        finally:
            self._stack.post("ready")

    def _running(self, agents: Sequence[ServiceProcess]) -> list[ServiceProcess]:
        run_in_parallel(agents, self._start_or_stop, threading.Event())
        started = [agent for agent in agents if agent.is_running()]
        self._services += started
        self._stack.add_services_to_status(self._services)
        return started

    def _start_or_stop(self, agent: ServiceProcess) -> None:
        try:
            self._start_service(agent)
        except InterruptedStartError:
            raise
        except DevstackError:  # reported
            stop_unit(agent, self._report)

    def _end(self, code: int, error: Exception | None = None) -> int:
        """Services first, so that they can hand back their work; the folder's lock goes last."""
        self._stack.post("stopping")
        # From here on what counts is how long the end takes, not how long the stack was there.
        self._watch = PhaseReporter("stack", "stack", self._report)
        self._watch.report_phase("stopping", str(error or ""))
        run_in_parallel(self._services, lambda service: stop_unit(service, self._report), threading.Event())
        self._stack.stop_servers()
        self._watch.report_phase("failed" if error else "stopped", str(error or ""))
        self._stack.close("failed" if error else "stopped")
        return code

    def _install(self) -> None:
        if not self._options.install:
            return
        watch = PhaseReporter("install", "stack", self._report)
        watch.report_phase("preparing", "migrations, topics, consumer groups, keys")
        state = self._state_dir
        files = {
            "--keys-file": state.keys_file,
            "--signing-key-file": state.signing_key_file,
            "--ticket-key-file": state.ticket_key_file,
            "--redis-passwords-file": state.redis_passwords_file,
        }
        argv = (*self._options.install, *(str(word) for pair in files.items() for word in pair))
        run_program(
            argv,
            log=self._state_dir.log_file("install"),
            cwd=self._state_dir.logs,
            env={**os.environ, **self._stack.environment(), **self._rights_to_grant(), **self._agents_to_install()},
            timeout_s=_INSTALL_TIMEOUT_S,
            cancelled=self._stack.cancelled,
        )
        watch.report_phase("ready")

    def _rights_to_grant(self) -> dict[str, str]:
        return {"FLOTILLA_KAFKA_GRANT_RIGHTS": "true"} if self._stack.has_kafka_users else {}

    def _agents_to_install(self) -> dict[str, str]:
        """Those that get their role, Redis user and consumer group now; without own ones, the installer's default."""
        own = [spec.agent for spec in self._stack.own_agents.values() if spec.agent]
        return {"FLOTILLA_INSTALL_AGENTS": ",".join((*BUILT_IN_AGENTS, *own))} if own else {}

    def _make_all(self, names: Iterable[str]) -> list[ServiceProcess]:
        """Processes that know where the services are that agents call, if they run here."""
        made = [self._make(name) for name in names]
        for called in [each for each in (*self._services, *made) if each.name in FOUND_AT]:
            port, variable = FOUND_AT[called.name]
            for each in made:
                each.env[variable] = f"http://{LOOPBACK}:{called.ports[port]}"
        return made

    def _make(self, name: str) -> ServiceProcess:
        own = self._stack.own_agents.get(name)
        ports = self._stack.assign_ports(name, tuple((own or SERVICES[name]).port_variables))
        return ServiceProcess(
            name,
            env=self._stack.environment_of(name, ports),
            ports=ports,
            log=self._state_dir.log_file(name),
            ledger=self._stack.ledger,
            argv=agent_command(own) if own else None,
            cwd=own.folder if own and own.command else self._state_dir.logs,
        )

    def _start_service(self, service: ServiceProcess) -> None:
        watch = PhaseReporter(service.name, service.kind, self._report)
        watch.report_phase("starting")
        try:
            service.start()
            service.wait_ready(cancelled=self._stack.cancelled)
        except DevstackError as error:
            watch.report_phase("failed", str(error))
            raise
        watch.report_phase("ready", service.url)

    def _report(self, event: ProgressEvent) -> None:
        self._journal.append_event(event)
        self._echo(event)


def parse_supervisor_options(argv: Sequence[str]) -> SupervisorOptions:
    """The command line as options."""
    parser = argparse.ArgumentParser(prog="flotilla_devstack.supervisor", description=__doc__)
    parser.add_argument("--state", type=Path, default=default_state_dir(), help="the state folder")
    parser.add_argument("--servers", type=_names, default=SERVERS, help=f"of {','.join(SERVERS)}")
    parser.add_argument("--services", type=_names, default=tuple(SERVICES), help="empty for none")
    parser.add_argument(
        "--port", type=_port, action="append", default=[], metavar="NAME=PORT", help="e.g. gateway.http=80"
    )
    parser.add_argument("--agent", type=Path, action="append", default=[], metavar="FOLDER", help="of an own agent")
    parser.add_argument("--redis", choices=FLAVOURS, default="redis")
    parser.add_argument("--no-install", action="store_true", help="leave out python -m flotilla.install")
    parsed = parser.parse_args(argv)
    defaults = SupervisorOptions(state=parsed.state)
    return SupervisorOptions(
        state=parsed.state,
        servers=parsed.servers,
        services=parsed.services,
        agents=tuple(parsed.agent),
        ports=tuple(parsed.port),
        redis_flavour=parsed.redis,
        install=() if parsed.no_install else defaults.install,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def _echo(event: ProgressEvent) -> None:
    line = f"{time.strftime('%H:%M:%S')} {event.seconds:8.2f} s  {event.name:16} {event.phase:10} {event.detail}"
    sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 stopped as asked, 1 did not come up, 3 the folder belongs to another."""
    supervisor = StackSupervisor(parse_supervisor_options(sys.argv[1:] if argv is None else argv), _echo)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda _signum, _frame: supervisor.stop())
    if owner := os.environ.get(OWNER_VARIABLE):
        call_after_exit(int(owner), supervisor.stop)
    try:
        return supervisor.run()
    except StateLockedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_LOCKED


if __name__ == "__main__":
    sys.exit(main())
