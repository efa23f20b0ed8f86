"""One stack of this folder's own: its tests kill and pause servers, which the shared one must not suffer."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla_devstack import Progress, Stack


@pytest.fixture(scope="session")
def events() -> list[Progress]:
    """What the own stack reported while it started."""
    return []


@pytest.fixture(scope="session")
def own_stack(events: list[Progress]) -> Iterator[Stack]:
    """All four servers in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="flotilla-devstack-"))
    folder.chmod(0o711)
    with Stack(folder, on_progress=events.append) as stack:
        yield stack
    shutil.rmtree(folder)
