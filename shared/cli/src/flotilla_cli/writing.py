"""Files that verbs write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flotilla_cli.errors import CliError


@contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears under its name only once it is whole; nobody else reads a `private` one.

    Raises:
        CliError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600 if private else 0o666)
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
