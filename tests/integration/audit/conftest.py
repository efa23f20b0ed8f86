from collections.abc import Callable

import pytest

from flotilla.config import KafkaSettings
from tests.support.audit import Projected
from tests.support.postgres import Database
from tests.support.session_events import topics_named


@pytest.fixture
async def kafka(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaSettings:
    """Two topics of this test's own."""
    return await topics_named(kafka_bootstrap, unique("events"))


@pytest.fixture
def projected(database: Database) -> Projected:
    """What the projection holds."""
    return Projected(database)
