"""Temporal's state where it is a file: the database (SQLite) of its development server."""

import sqlite3
from contextlib import closing
from hashlib import file_digest
from pathlib import Path
from urllib.parse import quote

from flotilla.backup.manifest import StoredFile
from flotilla.backup.private_files import OWNER_ONLY, OWNER_ONLY_FOLDER
from flotilla.contracts.errors import ConfigurationError

NAME = "temporal/temporal.db"
_BUSY_S = 30.0


def copy_temporal(source: Path, folder: Path) -> StoredFile:
    """Copy the database while the server works, in one step and so at one point.

    Raises:
        ConfigurationError: it is no such database, or can't be read.
    """
    target = folder / NAME
    target.parent.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    target.touch(OWNER_ONLY)
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, timeout=_BUSY_S)) as opened,
            closing(sqlite3.connect(target)) as copy,
        ):
            opened.backup(copy)
    except sqlite3.Error as error:
        raise ConfigurationError(f"Temporal's database {source} can't be copied: {error}") from error
    with target.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return StoredFile(name=NAME, size_bytes=target.stat().st_size, sha256=digest)
