"""`flotilla doctor` looks at each topology and names what to change."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flotilla.config import KafkaSettings
from flotilla_cli.errors import CliError
from flotilla_cli.local.servers import check_kafka, check_postgres, check_redis, check_temporal
from flotilla_devstack import RunningStack
from flotilla_devstack.servers.postgres import SUPERUSER
from tests.ha.topologies.kafka import KafkaWithLogins
from tests.ha.topologies.pgbouncer import start_pgbouncer
from tests.ha.topologies.sentinel import PRIMARY, Watched, watched_redis
from tests.integration.supervision.test_tls import tls_before
from tests.support.certificates import SERVER_NAME, Certificates, make_certificates
from tests.support.postgres import Database

Setting = Callable[..., None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Sets variables of the environment: `setting(KAFKA_CA_FILE=path)`."""

    def make(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"FLOTILLA_{name}", str(value))

    return make


async def finding(check: object) -> str:
    """What is wrong, and the hint."""
    with pytest.raises(CliError) as found:
        await check  # type: ignore[misc]
    return f"{found.value} → {found.value.hint}"


async def test_a_pooler_is_seen_and_statement_mode_refused(stack: RunningStack, database: Database) -> None:
    pgbouncer = start_pgbouncer(stack, "flotilla_app", SUPERUSER)
    assert "through a pooler" in await check_postgres(pgbouncer.before(database.dsn()))
    assert "add pooler=transaction" in await finding(check_postgres(pgbouncer.before(database.dsn(), "")))
    pgbouncer.stop()
    statements = start_pgbouncer(stack, "flotilla_app", pool_mode="statement")
    assert "set its pool_mode to transaction" in await finding(check_postgres(statements.before(database.dsn())))
    statements.stop()


@pytest.fixture(scope="module")
def watched(stack: RunningStack) -> Iterator[Watched]:
    with watched_redis(stack) as running:
        yield running


async def test_sentinels_and_what_they_lead_to(watched: Watched) -> None:
    assert "named by sentinels" in await check_redis(watched.url)
    assert "watches no primary named" in await finding(check_redis(watched.url.replace(PRIMARY, "other")))
    (replica,) = [each for each in watched.servers if each is not watched.primary]
    assert "it is a replica" in await finding(check_redis(replica.url))
    nobody = "redis+sentinel://127.0.0.1:9/main"
    assert "no sentinel leads to a primary (127.0.0.1:9: " in await finding(check_redis(nobody))


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("expired"), -datetime.timedelta(minutes=1))


async def test_kafkas_certificates(
    server: KafkaWithLogins, topics: KafkaSettings, expired: Certificates, setting: Setting
) -> None:
    given = server.by_certificate(topics)
    changed = given.model_dump(exclude_none=True, exclude={"kafka_bootstrap_servers"})
    setting(**{name.upper(): value for name, value in changed.items()})
    assert "kept indefinitely" in await check_kafka(given.kafka_bootstrap_servers)
    setting(KAFKA_CA_FILE=expired.ca)
    assert "set FLOTILLA_KAFKA_CA_FILE to" in await finding(check_kafka(given.kafka_bootstrap_servers))
    setting(KAFKA_CA_FILE=given.kafka_ca_file, KAFKA_CERT_FILE=expired.client, KAFKA_KEY_FILE=expired.client_key)
    assert "not now → renew it" in await finding(check_kafka(given.kafka_bootstrap_servers))


async def test_kafkas_tokens(server: KafkaWithLogins, topics: KafkaSettings, setting: Setting, tmp_path: Path) -> None:
    given = server.by_token(topics, f"cat {tmp_path}/none")
    changed = given.model_dump(exclude_none=True, exclude={"kafka_bootstrap_servers"})
    setting(**{name.upper(): value for name, value in changed.items()})
    problem = await finding(check_kafka(given.kafka_bootstrap_servers))
    assert "No such file" in problem
    assert "run the command by hand" in problem


async def test_temporals_certificates(
    temporal_address: str, certificates: Certificates, expired: Certificates, setting: Setting
) -> None:
    async with tls_before(temporal_address, certificates) as address:
        setting(TEMPORAL_CA_FILE=certificates.ca, TEMPORAL_SERVER_NAME=SERVER_NAME)
        assert "client's certificate if it asks" in await finding(check_temporal(address))
        setting(TEMPORAL_CERT_FILE=certificates.client, TEMPORAL_KEY_FILE=certificates.client_key)
        assert "namespace default" in await check_temporal(address)
        setting(TEMPORAL_SERVER_NAME="other.test")
        assert "or set FLOTILLA_TEMPORAL_SERVER_NAME" in await finding(check_temporal(address))
        setting(TEMPORAL_CA_FILE=expired.ca, TEMPORAL_SERVER_NAME=SERVER_NAME)
        assert "set FLOTILLA_TEMPORAL_CA_FILE to" in await finding(check_temporal(address))
    async with tls_before(temporal_address, expired) as address:
        assert "the server's certificate has expired" in await finding(check_temporal(address))
