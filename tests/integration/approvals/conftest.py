"""Governed actions on a server that skips time, with a real database behind the activities."""

from collections.abc import AsyncIterator, Callable

import pytest

from flotilla.postgres import Pool
from tests.integration.approvals.desk import Desk, open_desk
from tests.support.time_skipping import time_skipping_server


@pytest.fixture
async def desk(pool: Pool, unique: Callable[[str], str]) -> AsyncIterator[Desk]:
    """Where actions are submitted and decided."""
    async with time_skipping_server() as environment, open_desk(environment.client, pool, unique("queue")) as desk:
        desk.environment = environment
        yield desk
