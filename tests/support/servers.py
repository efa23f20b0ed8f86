"""The servers of the test run: one stack for all tests, and private Redis servers for those that break things."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Addresses:
    """Where the shared servers are."""

    postgres_dsn: str
    redis_url: str
    temporal_address: str
    kafka_bootstrap: str


def running_stack() -> Addresses:
    return Addresses(
        postgres_dsn=os.environ["PGSUPER_DSN"],
        redis_url=os.environ["FLOTILLA_REDIS_URL"],
        temporal_address=os.environ["FLOTILLA_TEMPORAL_ADDRESS"],
        kafka_bootstrap=os.environ["FLOTILLA_KAFKA_BOOTSTRAP_SERVERS"],
    )


class PrivateRedis:
    """A redis-server of one test's own: it may be flushed, killed, paused and restarted."""

    def __init__(self, folder: Path, *options: str, binary: str = "redis-server") -> None:
        self._folder = folder
        self._options = options
        self._binary = binary
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it (again, with the data it has on disk) and waits until it listens."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        arguments += ["--maxmemory-policy", "noeviction", "--appendonly", "yes", *self._options]
        self._process = subprocess.Popen([self._binary, *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"redis-server did not listen on {self.port} within 10 s")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kills it and starts it again from its append-only file."""
        self.kill()
        self.start()


@contextmanager
def private_redis(*options: str, binary: str = "redis-server") -> Iterator[PrivateRedis]:
    folder = Path(tempfile.mkdtemp(prefix="flotilla-redis-"))
    server = PrivateRedis(folder, *options, binary=binary)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
