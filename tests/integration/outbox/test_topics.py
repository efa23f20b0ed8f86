"""Topics are created as the log needs them, and wrong ones are refused with the fix."""

from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.kafka.topics import check_topics, ensure_topics


@pytest.fixture
def settings(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaSettings:
    return KafkaSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        kafka_session_events_topic=unique("events"),
        kafka_checkpoints_topic=unique("checkpoints"),
    )


async def make_topic(settings: KafkaSettings, *, partitions: int = 12, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    named = {name.replace("_", "."): value for name, value in configs.items()}
    await admin.create_topics([NewTopic(settings.kafka_session_events_topic, partitions, 1, topic_configs=named)])
    await admin.close()


async def test_created_topics_keep_everything_indefinitely(settings: KafkaSettings) -> None:
    created = await ensure_topics(settings)
    assert created == [settings.kafka_session_events_topic, settings.kafka_checkpoints_topic]
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    (topic,) = [t for t in await admin.describe_topics() if t["topic"] == settings.kafka_session_events_topic]
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.kafka_session_events_topic)
    (response,) = await admin.describe_configs([resource])
    await admin.close()
    configs = {e["config_names"]: e["config_value"] for e in response.to_object()["resources"][0]["config_entries"]}
    assert len(topic["partitions"]) == 12
    assert (configs["retention.ms"], configs["cleanup.policy"]) == ("-1", "delete")


async def test_a_second_call_creates_nothing(settings: KafkaSettings) -> None:
    await ensure_topics(settings)
    assert await ensure_topics(settings) == []
    await check_topics(settings)


async def test_missing_topics_are_waited_for(settings: KafkaSettings) -> None:
    with pytest.raises(RetryLater, match=r"flotilla\.install"):
        await check_topics(settings)


@pytest.mark.parametrize(
    ("partitions", "configs", "named"),
    [
        (6, {"retention_ms": "-1"}, "6 partitions, 12 are needed"),
        (12, {}, "retention.ms=604800000"),
        (12, {"retention_ms": "-1", "cleanup_policy": "compact"}, "cleanup.policy=compact"),
        (12, {"retention_ms": "-1", "max_message_bytes": "1000"}, "max.message.bytes=1000"),
    ],
    ids=["partitions", "retention", "cleanup", "message size"],
)
async def test_a_wrong_topic_is_refused_by_name(
    settings: KafkaSettings, partitions: int, configs: dict[str, str], named: str
) -> None:
    await make_topic(settings, partitions=partitions, **configs)
    with pytest.raises(ConfigurationError, match=named) as refusal:
        await ensure_topics(settings)
    assert settings.kafka_session_events_topic in str(refusal.value)


async def make_unsafe_topic(settings: KafkaSettings) -> None:
    await make_topic(settings, retention_ms="-1", min_insync_replicas="1", unclean_leader_election_enable="true")


@pytest.mark.parametrize(
    "risk",
    [
        "has 1 replicas, 3 are needed: kafka-reassign-partitions.sh",
        r"min.insync.replicas=1, .*kafka-configs.sh --alter --topic events-\w+ --add-config min.insync.replicas=2",
        r"unclean.leader.election.enable=true, .*--add-config unclean.leader.election.enable=false",
    ],
    ids=["replicas", "in-sync replicas", "unclean election"],
)
async def test_a_topic_that_may_lose_acknowledged_events_is_refused_where_durability_is_required(
    settings: KafkaSettings, risk: str
) -> None:
    await make_unsafe_topic(settings)
    with pytest.raises(ConfigurationError, match=risk):
        await ensure_topics(settings.model_copy(update={"kafka_durability": "required"}))


async def test_elsewhere_it_is_warned_of_once(settings: KafkaSettings, capsys: pytest.CaptureFixture[str]) -> None:
    await make_unsafe_topic(settings)
    await ensure_topics(settings)
    await check_topics(settings)
    assert capsys.readouterr().out.count("kafka_may_lose_acknowledged_events") == 1


async def test_kafka_away_says_where_it_was_sought() -> None:
    settings = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(RetryLater, match=r"127\.0\.0\.1:1"):
        await check_topics(settings)
