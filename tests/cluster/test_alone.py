"""One service's chart, beside a fleet's servers: ready with their addresses; set up wrongly, it explains how to fix it.

A mistake is reported where an operator looks: in helm's refusal, else in the pod's log, readiness or state.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.fleet import Fleet, forwarded, images
from tests.cluster.kubernetes import Namespace, Object
from tests.support.catalog import SERVICES
from tests.support.charts import chart_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
# Servers and the install Job, and none of the services.
OPTIONS = tuple(word for service in SERVICES for word in ("--set", f"{service}.enabled=false"))
RELEASE = "alone"
_OWN = f"app.kubernetes.io/instance={RELEASE}"
# Addresses of the servers that are there; each mistake spoils one.
SERVERS = (
    *("--set", "global.dependencies.postgres.existingSecret=flotilla-demo-postgres"),
    *("--set", "global.dependencies.redis.existingSecret=flotilla-demo-redis"),
    *("--set", "global.dependencies.kafka.bootstrapServers=flotilla-demo-kafka:9092"),
    *("--set", "global.dependencies.temporal.address=flotilla-demo-temporal:7233"),
    *("--set", "global.signingKey.existingSecret=flotilla-demo-signing"),
    *("--set", "global.ticketKey.existingSecret=flotilla-demo-tickets"),
    *("--set", "global.ticketPublicKeys.existingConfigMap=flotilla-demo-tickets"),
)
POSTGRES = {"flotilla_relay": "postgresql://flotilla_relay:wrong@flotilla-demo-postgres:5432/flotilla"}
REDIS = {"research-agent": "redis://default:wrong@flotilla-demo-redis:6379/0"}
# Service, value, what it is about, and the words.
UNREADY = {
    "password-of-postgres": (
        "outbox-relay",
        "dependencies.postgres.existingSecret=wrong",
        ("PostgreSQL refuses this user", "FLOTILLA_POSTGRES_DSN"),
    ),
    "password-of-redis": (
        "research-agent",
        "dependencies.redis.existingSecret=wrong",
        ("Redis refuses", "FLOTILLA_REDIS_URL"),
    ),
    "kafka-of-relay": (
        "outbox-relay",
        "dependencies.kafka.bootstrapServers=nowhere:9092",
        ("Kafka at nowhere:9092 does not answer", "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS"),
    ),
    "kafka-of-audit": (
        "audit-consumer",
        "dependencies.kafka.bootstrapServers=nowhere:9092",
        ("Kafka at nowhere:9092 does not answer", "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS"),
    ),
    "temporal": (
        "workflow-worker",
        "dependencies.temporal.address=nowhere:7233",
        ("Temporal at nowhere:7233 does not answer", "FLOTILLA_TEMPORAL_ADDRESS"),
    ),
}


@pytest.fixture
def alone(fleet: Fleet) -> Iterator[Namespace]:
    """The servers' namespace, with a Secret of wrong passwords; it and the release `alone` are gone afterwards."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "stringData": POSTGRES | REDIS}
    fleet.namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(secret))
    yield fleet.namespace
    fleet.namespace.kubectl("delete", "secret", "wrong")
    fleet.namespace.helm("uninstall", RELEASE, "--wait", "--ignore-not-found")
    # helm waits for the Deployment; its last pod may linger.
    fleet.namespace.kubectl("wait", "--for=delete", "pod", "--selector", _OWN, "--timeout=120s")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_chart_installs_alone_where_its_servers_addresses_are_given(alone: Namespace, service: str) -> None:
    _install(alone, service)

    await alone.all_ready(300)

    assert "Succeeded" in alone.helm("test", RELEASE)
    assert [_container(pod)["restartCount"] for pod in _pods(alone)] == [0]


def test_a_secret_that_is_not_named_is_named_by_the_render(alone: Namespace) -> None:
    said = alone.helm("install", RELEASE, "charts/outbox-relay", *images(), check=False)

    assert "outbox-relay needs postgres: set dependencies.postgres.existingSecret" in said


def test_an_unknown_value_is_refused_by_name(alone: Namespace) -> None:
    said = alone.helm("install", RELEASE, "charts/outbox-relay", *SERVERS, "--set", "replica=2", check=False)

    assert "'replica'" in said


async def test_a_secret_that_is_not_there_is_named_by_the_pods_state(alone: Namespace) -> None:
    _install(alone, "outbox-relay", "--set", "dependencies.postgres.existingSecret=nobody-made-it")

    await _eventually_in_state(alone, "waiting", 'secret "nobody-made-it" not found')


@pytest.mark.parametrize(("service", "value", "words"), UNREADY.values(), ids=UNREADY.keys())
async def test_a_server_that_refuses_or_is_not_there_is_reported_in_log_and_readiness(
    alone: Namespace, service: str, value: str, words: tuple[str, ...]
) -> None:
    _install(alone, service, "--set", value)

    await eventually(lambda: _all_in(words, alone.kubectl("logs", _deployment(service), check=False)), 180, every_s=2)
    answer = await _readiness(alone, service)

    assert answer.status_code == 503
    assert _all_in(words, " ".join(answer.json()["problems"].values())), answer.text
    (pod,) = _pods(alone)
    assert not _container(pod)["ready"]
    assert _container(pod)["restartCount"] == 0


async def test_a_wrong_setting_is_named_with_its_hint_by_the_state_of_the_pod_that_ends(alone: Namespace) -> None:
    """No waiting fixes it, so the pod ends; `kubectl describe pod` says why."""
    _install(alone, "outbox-relay", "--set-string", "settings.FLOTILLA_RELAY_MAX_ROWS=0")

    await _eventually_in_state(alone, "terminated", "FLOTILLA_RELAY_MAX_ROWS")


def _install(namespace: Namespace, service: str, *options: str) -> None:
    chart, own = chart_of(service)
    values = [word for value in own for word in ("--set", value)]
    namespace.helm("install", RELEASE, f"charts/{chart}", *values, *SERVERS, *images(), *options)


def _deployment(service: str) -> str:
    return f"deployment/{RELEASE}-{service}"


def _pods(namespace: Namespace) -> list[Object]:
    return namespace.get("pods", "--selector", _OWN)


def _container(pod: Object) -> dict[str, Any]:
    (state,) = pod["status"].get("containerStatuses") or [{}]
    return dict(state)


async def _eventually_in_state(namespace: Namespace, state: str, words: str) -> None:
    """A container's state, now or before its restart, tells these words."""

    def told() -> bool:
        containers = [_container(pod) for pod in _pods(namespace)]
        states = [each.get(when, {}).get(state, {}) for each in containers for when in ("state", "lastState")]
        return any(words in each.get("message", "") for each in states)

    await eventually(told, timeout_s=180, every_s=1)


async def _readiness(namespace: Namespace, service: str) -> httpx.Response:
    with forwarded(namespace, _deployment(service), 9090) as url:
        async with httpx.AsyncClient() as client:
            return await client.get(f"{url}/readyz", timeout=30)


def _all_in(words: tuple[str, ...], text: str) -> bool:
    return all(word in text for word in words)
