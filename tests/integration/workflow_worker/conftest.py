"""A worker on servers of its own names, and agents that know only Redis."""

from collections.abc import AsyncIterator, Callable

import pytest

from flotilla.contracts.requests import RAGRequest
from flotilla.postgres import Pool
from tests.support.postgres import Database
from tests.support.worker import RunningWorker, running_worker


@pytest.fixture
async def worker(
    database: Database, pool: Pool, redis_url: str, temporal_address: str, unique: Callable[[str], str]
) -> AsyncIterator[RunningWorker]:
    """A running workflow worker."""
    async with running_worker(
        dsn=database.dsn("flotilla_worker"),
        pool=pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=unique("queue"),
        agents=("research", "write", "one", "shout"),
    ) as running:
        yield running


@pytest.fixture
def question(unique: Callable[[str], str]) -> RAGRequest:
    """A question of a new session."""
    return RAGRequest(
        query="Who inspects the mooring lines?",
        user_id="alice",
        session_id=unique("session"),
        tenant_id="acme",
        run_id=unique("run"),
    )
