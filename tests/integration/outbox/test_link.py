"""The relay's way to Kafka comes back whatever it was doing when the broker went away."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from flotilla.config import KafkaSettings
from flotilla.kafka.client import kafka_client_arguments
from flotilla_devstack.servers.kafka import KafkaServer
from outbox_relay import publisher as publishing
from outbox_relay.publisher import KafkaPublisher, PublisherConnection
from tests.integration.outbox.conftest import StartRelay
from tests.support.waiting import eventually


@pytest.fixture
async def link(harmed_kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PublisherConnection]:
    """A link that has a publisher, and tries to open the next for a second at a time."""
    monkeypatch.setattr(publishing, "CONNECT_TIMEOUT_S", 1.0)
    made = PublisherConnection(
        partial(
            KafkaPublisher.connect_publisher,
            kafka_client_arguments(harmed_kafka),
            harmed_kafka.kafka_session_events_topic,
        )
    )
    made.reconnect()
    await eventually(lambda: made.publisher, timeout_s=20)
    yield made
    await made.close()


async def begin_a_connect(publisher: KafkaPublisher) -> "asyncio.Task[None]":
    """A batch whose sender is in the middle of connecting to a broker that does not answer."""
    client = publisher._producer.client
    for connection in list(client._conns.values()):
        connection.close()
    batch = publisher.new_batch()
    batch.append(key=b"s", value=b"{}", timestamp=None)
    sending = asyncio.create_task(publisher.send_batch(batch, 0))
    await eventually(client._get_conn_lock.locked, timeout_s=10)
    return sending


async def test_a_link_restarted_in_the_middle_of_a_connect_reconnects(
    link: PublisherConnection, own_kafka: KafkaServer
) -> None:
    assert link.publisher is not None
    own_kafka.pause()
    sending = await begin_a_connect(link.publisher)
    link.reconnect("no acknowledgement")
    await eventually(lambda: "can't be used" in (link.problem or ""), timeout_s=20)
    own_kafka.resume()
    renewed = await eventually(lambda: link.publisher, timeout_s=20)
    await renewed.check_broker_answers()
    sending.cancel()
    await asyncio.wait([sending])


async def never() -> KafkaPublisher:
    made: asyncio.Future[KafkaPublisher] = asyncio.get_running_loop().create_future()
    return await made


class HangsAtFirst(KafkaPublisher):
    """The first attempt to open it does not end by itself."""

    tried = False

    @classmethod
    async def connect_publisher(cls, *arguments: Any) -> KafkaPublisher:
        if not cls.tried:
            cls.tried = True
            return await never()
        return await super().connect_publisher(*arguments)


async def test_a_relay_whose_link_task_was_cancelled_connects_again(start_relay: StartRelay) -> None:
    async with start_relay(publisher=HangsAtFirst) as relay:
        await eventually(lambda: HangsAtFirst.tried)
        connecting = relay._link._connecting
        assert connecting is not None
        connecting.cancel()
        await eventually(lambda: relay._link.publisher, timeout_s=20)
        assert connecting.cancelled()


async def test_a_link_without_a_task_or_stuck_in_an_attempt_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    link = PublisherConnection(never)
    moves = [link.is_making_progress]
    link.reconnect()
    moves.append(link.is_making_progress)
    monkeypatch.setattr(publishing, "_MAX_ATTEMPT_TIME_S", 0.0)
    moves.append(link.is_making_progress)
    assert moves == [False, True, False]
    await link.close()
