"""What Kafka answers where it grants no rights: asked again, or a message that says what to set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import BrokerResponseError, ClusterAuthorizationFailedError, NotControllerError
from aiokafka.protocol.admin import CreateAclsResponse_v0

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.kafka.granting import grant_kafka_rights


class Controller:
    """Refuses each request with one error. A broker answers so while a controller is elected, not on demand."""

    def __init__(self, error: type[BrokerResponseError]) -> None:
        self.code = error.errno

    async def _send_to_controller(self, _request: object) -> CreateAclsResponse_v0:
        return CreateAclsResponse_v0(0, [(self.code, None)])


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [(NotControllerError, RetryLater), (ClusterAuthorizationFailedError, ConfigurationError)],
)
async def test_only_what_may_work_later_is_asked_again(
    refusal: type[BrokerResponseError], raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def open_controller(_settings: KafkaSettings) -> AsyncIterator[Controller]:
        yield Controller(refusal)

    monkeypatch.setattr("flotilla.kafka.granting.open_admin_client", open_controller)
    with pytest.raises(raised, match=rf": {refusal.__name__}\b"):
        await grant_kafka_rights(KafkaSettings(kafka_bootstrap_servers="kafka:9092"))
