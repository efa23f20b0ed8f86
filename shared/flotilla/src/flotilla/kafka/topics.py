"""The Kafka topics of the permanent log: created by the installer, checked by their writers.

A log that is kept without limit must be configured for it: Kafka's own default deletes after seven days. And the number
of partitions is part of each session's identity, so another number would tear sessions apart.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.reaching import find_bootstrap_errors, join_server_errors

REQUEST_TIMEOUT_MS = 10_000
MIN_MESSAGE_BYTES = 1_000_000
"""The largest event (900,000 bytes) with key, headers and framing."""
_RECOMMENDED_REPLICAS = 3
_RECOMMENDED_IN_SYNC_REPLICAS = 2
_TOPIC_VISIBLE_TIMEOUT_S = 10.0
_DYNAMIC_TOPIC_CONFIG_SOURCE = 1
"""`config_source` of DescribeConfigs (Kafka protocol guide): DYNAMIC_TOPIC_CONFIG."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TopicSpec:
    """What a topic of the permanent log must be."""

    name: str
    partitions: int
    configs: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType(
            {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
        )
    )


def log_topic_specs(settings: KafkaSettings) -> list[TopicSpec]:
    """The two topics under the names of `settings`."""
    return [
        TopicSpec(settings.kafka_session_events_topic, SESSION_EVENTS_PARTITIONS),
        TopicSpec(settings.kafka_checkpoints_topic, 1),
    ]


async def ensure_topics(
    settings: KafkaSettings, *, replication_factor: int | None = None, topics: Sequence[TopicSpec] | None = None
) -> list[str]:
    """Create the topics that are missing, check those that exist, and return the names of the new ones.

    `replication_factor` is by default 3, or the number of brokers where there are fewer; two in-sync replicas are
    asked for wherever there are three. Safe to run twice and from several processes at once.

    Raises:
        RetryLater: Kafka does not answer, or can't take a topic yet.
        ConfigurationError: a topic exists with other partitions, retention or message size, or can't be created.
    """
    wanted = log_topic_specs(settings) if topics is None else topics
    async with open_admin_client(settings) as admin:
        existing = {topic["topic"] for topic in await admin.describe_topics()}
        missing = [topic for topic in wanted if topic.name not in existing]
        if missing:
            brokers = len((await admin.describe_cluster())["brokers"])
            if not brokers:
                raise RetryLater(f"Kafka at {settings.kafka_bootstrap_servers} has no broker that takes topics yet")
            await _create_topics(admin, missing, replication_factor or min(_RECOMMENDED_REPLICAS, brokers))
            await _wait_until_topics_visible(admin, missing)
        await _check_topics(admin, wanted, settings)
    return [topic.name for topic in missing]


async def load_topic_settings(settings: KafkaSettings, name: str) -> dict[str, str]:
    """The settings of a topic that differ from its brokers' defaults.

    Raises:
        RetryLater: Kafka does not answer, or has no such topic.
    """
    async with open_admin_client(settings) as admin:
        return await _load_topic_configs(admin, name, only_own=True)


async def delete_records_before(settings: KafkaSettings, starts: Mapping[TopicPartition, int]) -> None:
    """Delete the records before these offsets.

    Raises:
        RetryLater: Kafka does not answer, or refuses.
    """
    async with open_admin_client(settings) as admin:
        await admin.delete_records({place: RecordsToDelete(before_offset=start) for place, start in starts.items()})


async def check_topics(settings: KafkaSettings, topics: Sequence[TopicSpec] | None = None) -> None:
    """Return when the topics exist and are as they must be.

    Raises:
        RetryLater: Kafka does not answer, or a topic is not there yet.
        ConfigurationError: a topic is not as it must be; the message names the setting and the fix.
    """
    async with open_admin_client(settings) as admin:
        await _check_topics(admin, log_topic_specs(settings) if topics is None else topics, settings)


@asynccontextmanager
async def open_admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open a client for the work of administrators, for one `async with`.

    Raises:
        RetryLater: Kafka does not answer.
    """
    try:
        arguments = kafka_client_arguments(settings)
        arguments["request_timeout_ms"] = REQUEST_TIMEOUT_MS  # making a topic takes its time
        admin = AIOKafkaAdminClient(**arguments)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()
    except (KafkaError, OSError, TimeoutError) as error:
        refused = await find_bootstrap_errors(settings)
        reason = join_server_errors(refused, settings) or str(error) or type(error).__name__
        raise RetryLater(
            f"Kafka at {settings.kafka_bootstrap_servers} does not answer: {reason} "
            "(check FLOTILLA_KAFKA_BOOTSTRAP_SERVERS)"
        ) from next(iter(refused.values()), error)


async def _create_topics(admin: AIOKafkaAdminClient, topics: Sequence[TopicSpec], replication_factor: int) -> None:
    in_sync = {
        "min.insync.replicas": "2" if replication_factor >= _RECOMMENDED_REPLICAS else "1",
        "unclean.leader.election.enable": "false",
    }
    response = await admin.create_topics(
        [NewTopic(t.name, t.partitions, replication_factor, topic_configs={**t.configs, **in_sync}) for t in topics]
    )
    for answer in response.to_object()["topic_errors"]:
        kind = for_code(answer["error_code"])
        if answer["error_code"] and kind is not TopicAlreadyExistsError:
            problem = f"topic {answer['topic']} can't be created: {kind.__name__}: {answer['error_message']}"
            raise RetryLater(problem) if kind.retriable else ConfigurationError(problem)


async def _wait_until_topics_visible(admin: AIOKafkaAdminClient, topics: Sequence[TopicSpec]) -> None:
    # A broker may answer from metadata that is older than the controller's.
    names = {topic.name for topic in topics}
    async with asyncio.timeout(_TOPIC_VISIBLE_TIMEOUT_S):
        while not names <= {topic["topic"] for topic in await admin.describe_topics()}:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)


async def _check_topics(admin: AIOKafkaAdminClient, topics: Sequence[TopicSpec], settings: KafkaSettings) -> None:
    found = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    absent = [topic.name for topic in topics if topic.name not in found]
    if absent:
        raise RetryLater(f"Kafka has no topic {', '.join(absent)} yet: run `python -m flotilla.install`")
    problems, risks = [], []
    for topic in topics:
        configs = await _load_topic_configs(admin, topic.name)
        problems += _topic_problems(topic, len(found[topic.name]), configs)
        risks += _topic_risks(topic, min(len(partition["replicas"]) for partition in found[topic.name]), configs)
    if settings.kafka_durability == "required":
        problems += risks
    elif risks:
        _warn_of_risks_once("\n".join(risks))
    if problems:
        raise ConfigurationError("Kafka can't keep the log like this:\n" + "\n".join(problems))


@lru_cache(maxsize=16)
def _warn_of_risks_once(risks: str) -> None:
    log.warning("kafka_may_lose_acknowledged_events", risks=risks, refused_by="FLOTILLA_KAFKA_DURABILITY=required")


async def _load_topic_configs(admin: AIOKafkaAdminClient, name: str, *, only_own: bool = False) -> dict[str, str]:
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    (answer,) = response.to_object()["resources"]
    if answer["error_code"]:
        reason = for_code(answer["error_code"]).__name__
        raise RetryLater(f"the settings of topic {name} can't be read: {reason}: {answer['error_message']}")
    return {
        entry["config_names"]: entry["config_value"]
        for entry in answer["config_entries"]
        if not only_own or entry["config_source"] == _DYNAMIC_TOPIC_CONFIG_SOURCE
    }


def _topic_problems(topic: TopicSpec, partitions: int, configs: Mapping[str, str]) -> list[str]:
    problems = []
    if partitions != topic.partitions:
        problems.append(
            f"  topic {topic.name} has {partitions} partitions, {topic.partitions} are needed: "
            "delete it if it is empty, else name another one"
        )
    for name, wanted in topic.configs.items():
        if configs.get(name) != wanted:
            problems.append(
                f"  topic {topic.name} has {name}={configs.get(name)}: "
                f"kafka-configs.sh --alter --topic {topic.name} --add-config {name}={wanted}"
            )
    if int(configs["max.message.bytes"]) < MIN_MESSAGE_BYTES:
        problems.append(
            f"  topic {topic.name} has max.message.bytes={configs['max.message.bytes']}, events need "
            f"{MIN_MESSAGE_BYTES}: kafka-configs.sh --alter --topic {topic.name} --add-config max.message.bytes=1048588"
        )
    return problems


def _topic_risks(topic: TopicSpec, replicas: int, configs: Mapping[str, str]) -> list[str]:
    """By what Kafka may lose acknowledged events, each with the command that ends it."""
    alter = f"kafka-configs.sh --alter --topic {topic.name} --add-config"
    risks = []
    if replicas < _RECOMMENDED_REPLICAS:
        risks.append(
            f"  topic {topic.name} has {replicas} replicas, {_RECOMMENDED_REPLICAS} are needed: "
            "kafka-reassign-partitions.sh --execute with a plan that names three brokers per partition"
        )
    if int(configs["min.insync.replicas"]) < _RECOMMENDED_IN_SYNC_REPLICAS:
        risks.append(
            f"  topic {topic.name} has min.insync.replicas={configs['min.insync.replicas']}, so one broker alone may "
            f"acknowledge an event: {alter} min.insync.replicas={_RECOMMENDED_IN_SYNC_REPLICAS}"
        )
    if configs.get("unclean.leader.election.enable") != "false":
        risks.append(
            f"  topic {topic.name} has unclean.leader.election.enable="
            f"{configs.get('unclean.leader.election.enable')}, so a broker without the newest events may lead: "
            f"{alter} unclean.leader.election.enable=false"
        )
    return risks
