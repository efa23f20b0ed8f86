"""Kafka with clients' certificates, and with tokens that a command prints."""

import shutil
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import RetryLater
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.session_log import open_kafka_log
from flotilla.kafka.topics import check_topics, ensure_topics
from outbox_relay.publisher import KafkaPublisher
from tests.ha.topologies.kafka import KafkaWithLogins
from tests.support.audit import Projected, audit_settings, events_of, publish, running_audit
from tests.support.audit_fixtures import projected
from tests.support.certificates import Certificates, make_certificates
from tests.support.postgres import Database
from tests.support.waiting import eventually

__all__ = ["projected"]
# Prints an unsigned JSON Web Token that is good for the seconds in the second file, and notes that it ran in the first.
PRINTS_A_TOKEN = """
import base64, json, pathlib, sys, time
runs, life = map(pathlib.Path, sys.argv[1:])
runs.write_text(runs.read_text() + "x")
part = lambda claims: base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
now = time.time()
print(part({"alg": "none"}) + "." + part({"sub": "relay", "iat": now, "exp": now + float(life.read_text())}) + ".")
"""


class Tokens:
    """A command that prints tokens, and how often it ran."""

    def __init__(self, folder: Path, life_s: float) -> None:
        self._script, self._runs, self._life = (folder / name for name in ("token.py", "runs", "life"))
        self._script.write_text(PRINTS_A_TOKEN)
        self._runs.write_text("")
        self._life.write_text(str(life_s))
        self.command = f"{sys.executable} {self._script} {self._runs} {self._life}"

    @property
    def runs(self) -> int:
        return len(self._runs.read_text())

    def break_it(self) -> None:
        self._script.write_text("import sys\nsys.exit('the identity provider is away')\n")


@pytest.fixture(params=["certificate", "token"])
def settings(
    request: pytest.FixtureRequest, server: KafkaWithLogins, topics: KafkaSettings, tmp_path: Path
) -> KafkaSettings:
    if request.param == "certificate":
        return server.by_certificate(topics)
    return server.by_token(topics, Tokens(tmp_path, 60).command)


async def test_events_go_through_the_relay_and_the_audit_consumer_into_the_projection(
    settings: KafkaSettings, database: Database, projected: Projected, tmp_path: Path
) -> None:
    await ensure_topics(settings)
    await check_topics(settings)
    publisher = await KafkaPublisher.connect_publisher(
        kafka_client_arguments(settings), settings.kafka_session_events_topic
    )
    await publisher.close_without_flush()
    await publish(settings, events_of("s1", (1, 2, 3)))
    async with (
        running_audit(audit_settings(database, settings, tmp_path, **settings.model_dump())),
        open_kafka_log(settings),
    ):

        async def arrived() -> bool:
            return await projected.seqs("s1") == [1, 2, 3]

        await eventually(arrived, timeout_s=30)


async def test_a_token_is_asked_for_again_before_it_expires_and_no_event_is_lost(
    server: KafkaWithLogins, topics: KafkaSettings, tmp_path: Path
) -> None:
    """Each connection ends with its token, after 3 s."""
    tokens = Tokens(tmp_path, 3)
    settings = server.by_token(topics, tokens.command)
    producer = AIOKafkaProducer(**kafka_client_arguments(settings), acks="all", enable_idempotence=True)
    await producer.start()
    sent = 0

    async def send() -> bool:
        nonlocal sent
        await producer.send_and_wait(settings.kafka_session_events_topic, str(sent).encode(), partition=0)
        sent += 1
        return tokens.runs >= 4

    await eventually(send, timeout_s=40, every_s=0.05)
    await producer.stop()
    async with open_kafka_log(settings) as log:
        read = [record.value async for batch in log.scan_partition(0) for record in batch]
    assert read == [str(number).encode() for number in range(sent)]


async def test_one_token_serves_all_clients_of_a_process(
    server: KafkaWithLogins, topics: KafkaSettings, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path, 60)
    settings = server.by_token(topics, tokens.command)
    for _ in range(3):
        await check_topics(settings)
    assert tokens.runs == 1


async def test_a_command_that_fails_and_a_broker_that_refuses_the_token_are_named(
    server: KafkaWithLogins, topics: KafkaSettings, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path, -5)
    with pytest.raises(RetryLater, match="it refuses the token"):
        await check_topics(server.by_token(topics, tokens.command))
    tokens.break_it()
    with pytest.raises(RetryLater, match=r"TOKEN_COMMAND failed: .* ended with code 1: the identity provider is away"):
        await check_topics(server.by_token(topics, tokens.command + " "))


async def test_a_certificate_that_is_missing_or_of_another_authority_is_named(
    server: KafkaWithLogins, topics: KafkaSettings, tmp_path: Path
) -> None:
    settings = server.by_certificate(topics)
    stranger = make_certificates(tmp_path / "other")
    for changes, reason in (
        ({"kafka_cert_file": None, "kafka_key_file": None}, "FLOTILLA_KAFKA_CERT_FILE where it asks"),
        ({"kafka_ca_file": str(stranger.ca)}, "its certificate is not trusted.*FLOTILLA_KAFKA_CA_FILE"),
        ({"kafka_cert_file": stranger.client, "kafka_key_file": stranger.client_key}, "FLOTILLA_KAFKA_CERT_FILE"),
        ({"kafka_security_protocol": "SSL", "kafka_bootstrap_servers": server.bootstrap_address}, "SECURITY_PROTOCOL"),
    ):
        with pytest.raises(RetryLater, match=reason):
            await check_topics(settings.model_copy(update=changes))


async def test_a_certificate_that_is_replaced_is_used_by_the_next_connection(
    server: KafkaWithLogins, certificates: Certificates, topics: KafkaSettings, tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path / "other")
    mounted = [Path(shutil.copy(source, tmp_path)) for source in (certificates.client, certificates.client_key)]
    settings = server.by_certificate(topics).model_copy(
        update={"kafka_cert_file": mounted[0], "kafka_key_file": mounted[1]}
    )
    arguments = kafka_client_arguments(settings)
    for path, source in zip(mounted, (stranger.client, stranger.client_key), strict=True):
        shutil.copy(source, path)
    with pytest.raises(RetryLater):
        await KafkaPublisher.connect_publisher(arguments, settings.kafka_session_events_topic)
    for path, source in zip(mounted, (certificates.client, certificates.client_key), strict=True):
        shutil.copy(source, path)
    publisher = await KafkaPublisher.connect_publisher(arguments, settings.kafka_session_events_topic)
    await publisher.close_without_flush()
