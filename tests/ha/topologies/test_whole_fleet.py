"""A question through all six services: over every door at once, and with clocks that differ."""

import asyncio
import glob
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.config import KafkaSettings
from flotilla_devstack import RunningStack
from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.services import SERVICES
from tests.ha.topologies.fleet import Fleet, environment_of, fleet_on
from tests.ha.topologies.kafka import KafkaWithLogins
from tests.ha.topologies.pgbouncer import PgBouncer, start_pgbouncer
from tests.ha.topologies.sentinel import Watched, watched_redis
from tests.integration.supervision.test_tls import tls_before
from tests.support.audit_fixtures import kafka
from tests.support.certificates import SERVER_NAME, Certificates, make_certificates
from tests.support.postgres import Database
from tests.support.session_events import topics_named

__all__ = ["kafka"]
# Each service's clock against the servers': every pair of neighbours differs, and some by two hours.
CLOCKS = dict(zip(SERVICES, ("-1h", "+1h", "+1h", "-1h", "+1h", "-1h", "+1h"), strict=True))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def watched(stack: RunningStack) -> Iterator[Watched]:
    with watched_redis(stack) as running:
        yield running


@pytest.fixture
def pgbouncer(stack: RunningStack) -> Iterator[PgBouncer]:
    running = start_pgbouncer(stack, *{spec.role for spec in SERVICES.values()})
    yield running
    running.stop()


@pytest.fixture
def kafka_by_certificate(stack: RunningStack, certificates: Certificates) -> Iterator[KafkaWithLogins]:
    running = stack._start_extra("kafka", KafkaWithLogins.port_names, lambda home: KafkaWithLogins(home, certificates))
    yield running
    running.stop()


@pytest.fixture
async def topics(kafka_by_certificate: KafkaWithLogins, unique: Callable[[str], str]) -> KafkaSettings:
    return kafka_by_certificate.by_certificate(
        await topics_named(kafka_by_certificate.bootstrap_address, unique("events"))
    )


@pytest.fixture
async def doors(
    temporal_address: str, watched: Watched, topics: KafkaSettings, certificates: Certificates
) -> AsyncIterator[dict[str, str]]:
    async with tls_before(temporal_address, certificates) as address:
        yield {
            **environment_of(topics),
            "FLOTILLA_AUDIT_GROUP": topics.kafka_session_events_topic,
            "FLOTILLA_REDIS_URL": watched.url,
            "FLOTILLA_TEMPORAL_ADDRESS": address,
            "FLOTILLA_TEMPORAL_CA_FILE": str(certificates.ca),
            "FLOTILLA_TEMPORAL_CERT_FILE": str(certificates.client),
            "FLOTILLA_TEMPORAL_KEY_FILE": str(certificates.client_key),
            "FLOTILLA_TEMPORAL_SERVER_NAME": SERVER_NAME,
        }


@pytest.fixture
async def demanding(
    stack: RunningStack, database: Database, doors: dict[str, str], pgbouncer: PgBouncer, tmp_path: Path
) -> AsyncIterator[Fleet]:
    def through(_: str, role: str) -> dict[str, str]:
        return {"FLOTILLA_POSTGRES_DSN": pgbouncer.before(database.dsn(role))}

    async with fleet_on(stack, database, tmp_path, doors, through) as fleet:
        yield fleet


@pytest.mark.timeout(300)
async def test_a_question_is_answered_through_pooler_sentinels_and_certificates(
    demanding: Fleet, watched: Watched
) -> None:
    run = await demanding.ask("harbour")
    assert run["status"] == "success", run
    old = watched.primary
    await asyncio.to_thread(watched.switch_over)
    await asyncio.to_thread(watched.wait_for_another_than, old)
    again = await demanding.ask("harbour")
    assert again["status"] == "success", again
    await complete(demanding, "harbour")


@pytest.mark.timeout(300)
async def test_a_question_is_answered_while_the_services_clocks_differ_by_hours(
    stack: RunningStack, database: Database, kafka: KafkaSettings, unique: Callable[[str], str], tmp_path: Path
) -> None:
    common = {**environment_of(kafka), "FLOTILLA_AUDIT_GROUP": unique("audit")}
    async with fleet_on(stack, database, tmp_path, common, lambda name, _: at(CLOCKS[name])) as fleet:
        run = await fleet.ask("skewed")
        assert run["status"] == "success", run
        events = await complete(fleet, "skewed")
    assert len({event["time"][:13] for event in events}) > 1  # the clocks do differ


def at(offset: str) -> dict[str, str]:
    """What makes a process take the time to be another one."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")  # noqa: PTH207 - an absolute pattern
    if not found:
        raise MissingPrerequisiteError("libfaketime", "it is not installed", "apt-get install -y libfaketime")
    return {"LD_PRELOAD": found[0], "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


async def complete(fleet: Fleet, session: str) -> list[dict[str, Any]]:
    """The session's events, which have no gap."""
    events = await fleet.events(session)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["sequence"] > 5
    return events
