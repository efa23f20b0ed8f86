"""A Kafka with logins, its certificates, and topics of each test's own."""

from collections.abc import Callable, Iterator

import pytest

from flotilla.config import KafkaSettings
from flotilla_devstack import RunningStack
from tests.ha.topologies.kafka import KafkaWithLogins
from tests.support.certificates import Certificates, make_certificates
from tests.support.session_events import topics_named


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(stack: RunningStack, certificates: Certificates) -> Iterator[KafkaWithLogins]:
    running = stack._start_extra("kafka", KafkaWithLogins.port_names, lambda home: KafkaWithLogins(home, certificates))
    yield running
    running.stop()


@pytest.fixture
async def topics(server: KafkaWithLogins, unique: Callable[[str], str]) -> KafkaSettings:
    return await topics_named(server.bootstrap_address, unique("events"))
