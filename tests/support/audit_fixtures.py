"""Fixtures of the tests that look at the projection; a conftest imports what it needs."""

from collections.abc import AsyncIterator, Callable

import pytest

from audit_consumer.connections import LIVE, open_projection_pool
from flotilla.config import KafkaSettings
from flotilla.postgres import Pool
from tests.support.audit import Projected
from tests.support.postgres import Database
from tests.support.session_events import topics_named


@pytest.fixture
async def kafka(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaSettings:
    """Two topics of this test's own."""
    return await topics_named(kafka_bootstrap, unique("events"))


@pytest.fixture
async def projected(database: Database) -> AsyncIterator[Projected]:
    """What the projection holds."""
    async with Projected(database) as found:
        yield found


@pytest.fixture
async def audit_pool(database: Database) -> AsyncIterator[Pool]:
    """The audit consumer's own pool on the live projection."""
    async with open_projection_pool(database.dsn("flotilla_audit"), LIVE, application="test") as opened:
        yield opened
