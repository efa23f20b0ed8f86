"""Files that only their owner can read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

OWNER_ONLY, OWNER_ONLY_FOLDER = 0o600, 0o700


@contextmanager
def new_private_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file for its owner alone, on the disk when the block ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def put_private(path: Path, content: bytes) -> None:
    """Write a file for its owner alone: all of it, or nothing."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)  # of a killed process: in a container all have the same id
    with new_private_file(unfinished) as file:
        file.write(content)
    unfinished.replace(path)
