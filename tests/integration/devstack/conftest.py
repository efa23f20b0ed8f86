"""One stack of this folder's own: its tests kill and pause servers, which the shared one must not suffer."""

from collections.abc import Iterator

import pytest

from flotilla_devstack import ProgressEvent, Stack
from tests.support.scratch import open_folder


@pytest.fixture(scope="module")
def events() -> list[ProgressEvent]:
    """What the own stack reported while it started."""
    return []


@pytest.fixture(scope="module")
def own_stack(events: list[ProgressEvent]) -> Iterator[Stack]:
    """All four servers in a temporary folder."""
    with open_folder("devstack") as folder, Stack(folder, on_progress=events.append) as stack:
        yield stack
