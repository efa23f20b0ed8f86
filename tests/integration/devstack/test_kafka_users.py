"""A state folder whose Kafka had no users before."""

from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from flotilla.config import KafkaSettings
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.topics import ensure_topics
from flotilla_devstack import DevstackError, Stack, stack_for_tests
from flotilla_devstack.kafka_users import ensure_kafka_passwords
from flotilla_devstack.stack import ATTACH_VARIABLE


def settings_of(stack: Stack) -> KafkaSettings:
    return KafkaSettings.model_validate(stack.kafka_settings())


async def test_folder_of_a_former_version_keeps_its_records_and_gets_users_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stack(tmp_path, ("kafka",)) as former:
        before = settings_of(former)
        await ensure_topics(before)
        async with AIOKafkaProducer(**kafka_client_arguments(before), acks="all") as producer:
            await producer.send_and_wait(before.kafka_session_events_topic, b"kept", partition=0)
    with Stack(tmp_path, ("kafka",), kafka_users=True) as stack:
        now = settings_of(stack)
        arguments = kafka_client_arguments(now)
        topic = now.kafka_session_events_topic
        async with AIOKafkaConsumer(topic, **arguments, auto_offset_reset="earliest") as consumer:
            assert (await consumer.getone()).value == b"kept"
        monkeypatch.setenv(ATTACH_VARIABLE, str(tmp_path))
        with pytest.raises(DevstackError, match="asks for a login"), stack_for_tests(("kafka",)):
            pass
    assert (before.kafka_username, now.kafka_username) == (None, "admin")
    again = Stack(tmp_path, ("kafka",))
    assert again._kafka_passwords()["admin"] == (again.state_dir.kafka_passwords_folder / "admin").read_text()


def test_a_stack_without_a_kafka_has_no_users_of_it(tmp_path: Path) -> None:
    assert not Stack(tmp_path, ("redis",), kafka_users=True).has_kafka_users


def test_passwords_are_those_of_the_users_alone_without_the_end_of_their_line(tmp_path: Path) -> None:
    before = ensure_kafka_passwords(tmp_path)
    (tmp_path / "admin").write_text(before["admin"] + "\n")
    (tmp_path / "admin~").write_text("an editor's copy\n")
    assert ensure_kafka_passwords(tmp_path) == before
