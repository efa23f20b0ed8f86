"""PgBouncer before a PostgreSQL of the tests."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from flotilla_devstack import RunningStack
from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.servers.postgres_home import choose_server_user, make_reachable_folder
from flotilla_devstack.tools import clean_environment

_PROBE_TIMEOUT_S = 0.5


class PgBouncer(LocalServer):
    """Leads to every database of the server behind it, as any of `roles`, who are trusted."""

    port_names: ClassVar[tuple[str, ...]] = ("pgbouncer",)
    start_timeout_s = 20.0

    def __init__(self, home: Home, *, server_port: int, roles: tuple[str, ...], settings: Mapping[str, str]) -> None:
        super().__init__(home=home, name="pgbouncer")
        self._server_port = server_port
        self._roles = roles
        self._settings = settings
        self._program = ""

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Find the program and write its two files."""
        del report, cancelled
        found = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if found is None:
            raise MissingPrerequisiteError("pgbouncer", "no pgbouncer on PATH", "apt-get install -y pgbouncer")
        self._program = found
        self._user = choose_server_user(self.folder)
        self._real = make_reachable_folder(self.folder, self._user)
        users = self._real / "users.txt"
        users.write_text("".join(f'"{role}" ""\n' for role in self._roles), encoding="utf-8")
        lines = "".join(f"{name} = {value}\n" for name, value in self._all_settings(users).items())
        databases = f"[databases]\n* = host={LOOPBACK} port={self._server_port}\n\n"
        (self._real / "pgbouncer.ini").write_text(f"{databases}[pgbouncer]\n{lines}", encoding="utf-8")

    def _all_settings(self, users: Path) -> Mapping[str, str]:
        return {
            "listen_addr": LOOPBACK,
            "listen_port": str(self.ports["pgbouncer"]),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "pool_mode": "transaction",
            "default_pool_size": "3",
            **self._settings,
        }

    def find_version(self) -> str:
        """Such as `PgBouncer 1.18.0`."""
        return subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0]

    def command(self) -> ProcessCommand:
        """In the foreground; not as root, which it refuses."""
        return ProcessCommand(
            (self._program, str(self._real / "pgbouncer.ini")), clean_environment(), self._real, self._user
        )

    def probe(self) -> bool:
        """It listens."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["pgbouncer"]), _PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False

    def before(self, dsn: str, query: str = "pooler=transaction") -> str:
        """The DSN of a database behind it, through it."""
        parts = urlsplit(dsn)
        netloc = f"{parts.username}@{LOOPBACK}:{self.ports['pgbouncer']}"
        return urlunsplit(parts._replace(netloc=netloc, query=query))


def start_pgbouncer(stack: RunningStack, *roles: str, **settings: str) -> PgBouncer:
    """A started one before the stack's PostgreSQL; `settings` are PgBouncer's."""
    port = stack.ports("postgres")["postgres"]
    return stack._start_extra(
        "pgbouncer",
        PgBouncer.port_names,
        lambda home: PgBouncer(home, server_port=port, roles=roles, settings=settings),
    )
