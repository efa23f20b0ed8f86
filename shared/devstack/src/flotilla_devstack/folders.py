"""Where things are: the state folder of one stack, its lock, and the cache that all stacks of a user share."""

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
from typing import IO, Self

from flotilla_devstack.errors import StateLockedError


def default_state_dir() -> Path:
    """`$FLOTILLA_HOME`, else the user's data folder (XDG base directory specification)."""
    if home := os.environ.get("FLOTILLA_HOME"):
        return Path(home).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "flotilla" / "stack"


def cache_dir() -> Path:
    """`$FLOTILLA_DEVSTACK_CACHE`, else the user's cache folder: Kafka's jars and formatted templates."""
    if cache := os.environ.get("FLOTILLA_DEVSTACK_CACHE"):
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "flotilla" / "devstack"


class StateDir:
    """The layout of one state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.lock_file = self.root / "lock"
        self.ports_file = self.root / "ports.json"
        self.status_file = self.root / "status.json"
        self.journal_file = self.root / "events.jsonl"
        self.ledger_file = self.root / "processes.jsonl"
        self.keys_file = self.root / "keys.json"
        self.signing_key_file = self.root / "audit-signing.pem"
        self.public_key_file = self.root / "audit-signing.pub"
        self.redis_passwords_file = self.root / "redis-passwords.json"
        self.kafka_passwords_folder = self.root / "kafka-passwords"
        self.ticket_key_file = self.root / "tickets.pem"
        self.ticket_public_key_file = self.root / "tickets.pub"
        self.backup_key_file = self.root / "backup-signing.pem"
        self.backup_public_key_file = self.root / "backup-signing.pub"
        self.temporal_file = self.root / "temporal" / "temporal.db"
        self.wanted_agents_file = self.root / "wanted-agents.json"
        """Folders of agents that the running supervisor is asked to add."""
        self.logs = self.root / "logs"

    def create_folders(self) -> Self:
        """Make the folders; harmless when they exist."""
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def private_files(self) -> list[Path]:
        """What a stack can't make again: its private keys. Passwords of servers are made again."""
        return [*sorted(self.root.glob("*.pem")), self.keys_file]

    def log_file(self, name: str) -> Path:
        """The log of one server or service."""
        return self.logs / f"{name}.log"

    def data(self, name: str) -> Path:
        """The folder of one server's data."""
        return self.root / name


class StateLock:
    """An exclusive lock on a file, freed by the kernel when the holder ends, however it ends (flock(2))."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock and write our pid into the file, for messages.

        Raises:
            StateLockedError: another process, or another object of this one, holds it.
        """
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StateLockedError(
                f"{self._path.parent} is in use by process {self.holder_pid() or 'unknown'}; stop that one, or use "
                "another state folder (--state, FLOTILLA_HOME)"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def held(self) -> bool:
        """Whether anybody holds it; does not keep it."""
        if not self._path.exists():
            return False
        with self._path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def holder_pid(self) -> int | None:
        """The pid that the present or last holder wrote."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._path.read_text(encoding="utf-8"))
        return None


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old or the new text, whole, and a crash leaves one of them."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
