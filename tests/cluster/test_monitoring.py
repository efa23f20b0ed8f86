"""A Prometheus that scrapes the pods: every fault fires its alert and no other, and every panel has data.

The rules run `prometheus.FACTOR` times faster than in production.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from flotilla.bus import connect_redis
from tests.cluster.approvals import approve, key_of, parked
from tests.cluster.fleet import RELEASE, Fleet, Reached, forwarded
from tests.cluster.kubernetes import Namespace
from tests.cluster.prometheus import Prometheus, panels, prometheus
from tests.e2e.fleet import finished, session_events, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
QUESTION = "Who inspects the mooring lines at Northquay?"
ASKED_EVERY_S = 4
_REMIND = "UPDATE flotilla.approvals SET reminder_at = now() - interval '1 hour' WHERE approval_id = $1"
_TAKE = "DELETE FROM flotilla.event_outbox AS o USING taken WHERE o.id = taken.id"
_TAKEN = "CREATE TEMP TABLE taken AS SELECT * FROM flotilla.event_outbox WHERE session_id = '{}' ORDER BY seq LIMIT 1"
_PUT_BACK = "INSERT INTO flotilla.event_outbox OVERRIDING SYSTEM VALUE SELECT * FROM taken"


@asynccontextmanager
async def agent_away(fleet: Fleet) -> AsyncIterator[None]:
    """Nobody handles a stream that tasks come to."""
    async with _scaled_to_none(fleet.namespace, f"{RELEASE}-writer-agent"):
        yield


@asynccontextmanager
async def dead_letter(fleet: Fleet) -> AsyncIterator[None]:
    """An entry that is not an event; discarded in the end."""
    password = fleet.namespace.secret("flotilla-demo-redis-users", "admin")
    with forwarded(fleet.namespace, "service/flotilla-demo-redis", 6379) as at:
        async with connect_redis(f"redis://default:{password}@127.0.0.1:{urlsplit(at).port}/0") as redis:
            await redis.xadd("flotilla.tasks.research", {"event": b"not an event"})
    yield
    with fleet.reached() as reached:
        async with reached.client() as client:
            (letter,) = (await client.get("/v1/dead-letters")).json()["dead_letters"]
            answer = await client.delete(f"/v1/dead-letters/{letter['dead_letter_id']}")
            assert answer.status_code == 200, answer.text


@asynccontextmanager
async def audit_gap(fleet: Fleet) -> AsyncIterator[None]:
    """An event that never left the outbox, while later ones of its session did; put back in the end."""
    async with fleet.database() as database:
        async with _scaled_to_none(fleet.namespace, f"{RELEASE}-outbox-relay"):
            with fleet.reached() as reached:
                async with reached.client() as client:
                    await finished(client, await start_run(client, "gap", QUESTION, "gap"), timeout_s=120)
            await database.execute(_TAKEN.format("gap"))
            assert await database.execute(_TAKE) == "DELETE 1"
        yield
        await database.execute(_PUT_BACK)


@asynccontextmanager
async def overdue_approval(fleet: Fleet) -> AsyncIterator[None]:
    """One that waits since an hour ago; decided in the end."""
    with fleet.reached() as reached:
        async with reached.client() as client:
            action = await parked(client, "overdue")
        async with fleet.database() as database:
            await database.execute(_REMIND, action)
        yield
        async with reached.client() as client:
            await _approved_by(reached, client, "carol", action)


@asynccontextmanager
async def kafka_down(fleet: Fleet) -> AsyncIterator[None]:
    """The demo's broker keeps nothing, so it stays away."""
    fleet.namespace.kubectl("scale", "deployment/flotilla-demo-kafka", "--replicas=0")
    yield


Fault = Callable[[Fleet], AbstractAsyncContextManager[None]]
# Fault, its alert, and what else may fire for it. Kafka's stands last, since it is not fixed.
FAULTS: dict[str, tuple[Fault, str, set[str]]] = {
    "overdue-approval": (overdue_approval, "FlotillaApprovalOverdue", set()),
    "agent-away": (agent_away, "FlotillaStreamStuck", set()),
    "dead-letter": (dead_letter, "FlotillaDeadLetters", set()),
    "audit-gap": (audit_gap, "FlotillaAuditGap", set()),
    # What is not acknowledged can't be checkpointed.
    "kafka-down": (kafka_down, "FlotillaOutboxStalled", {"FlotillaCheckpointOld", "FlotillaAuditLagging"}),
}


@pytest.fixture(scope="module")
def watched(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus beside a fleet that is asked a question every few seconds."""
    with prometheus(fleet.namespace, tmp_path_factory.mktemp("prometheus")) as server, _asked_all_the_time(fleet):
        asyncio.run(eventually(server.is_up, timeout_s=60, every_s=0.5))
        yield server


async def test_every_services_pod_is_scraped(fleet: Fleet, watched: Prometheus) -> None:
    """With the worker's second port, of the Temporal SDK."""

    def all_up() -> bool:
        targets = watched.targets()
        return len(targets) == len(SERVICES) + 1 and set(targets.values()) == {"up"}

    await eventually(all_up, timeout_s=120, every_s=1)


async def test_no_alert_fires_while_the_fleet_is_well(fleet: Fleet, watched: Prometheus) -> None:
    """It answers, decides on approvals, and takes an order back."""
    began = time.time()
    with fleet.reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)
            run = await finished(client, await start_run(client, "well", QUESTION, "well"), timeout_s=120)
            assert run["status"] == "success", run
            assert await session_events(client, "well")
            await _approved_by(reached, client, "bob", await parked(client, "decided"))
            order = {"order_id": "o-1", "user_id": "nobody", "amount": "12.50", "product_id": "p-1"}
            assert (await client.post("/v1/orders", json=order)).status_code == 202
            await eventually(lambda: _rejected(client), timeout_s=60, every_s=1)

    await eventually(lambda: watched.has_data('flotilla_saga_compensations_total{outcome!=""}'), 60, every_s=2)
    assert watched.fired(began) == set()


@pytest.mark.parametrize(("fault", "alert", "consequences"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_fires_its_alert_and_no_other(
    fleet: Fleet, watched: Prometheus, fault: Fault, alert: str, consequences: set[str]
) -> None:
    await eventually(lambda: not watched.firing(), timeout_s=180, every_s=2)
    began = time.time()

    async with fault(fleet):
        await eventually(lambda: alert in watched.firing(), timeout_s=300, every_s=2)

    if fault is not kafka_down:
        await eventually(lambda: not watched.firing(), timeout_s=180, every_s=2)
    assert watched.fired(began) <= {alert} | consequences


async def test_every_panel_has_data(watched: Prometheus) -> None:
    without = {name: query for name, query in panels().items() if not watched.has_data(query)}

    assert without == {}


@asynccontextmanager
async def _scaled_to_none(namespace: Namespace, deployment: str) -> AsyncIterator[None]:
    namespace.kubectl("scale", f"deployment/{deployment}", "--replicas=0")
    await namespace.all_ready(120)
    yield
    namespace.kubectl("scale", f"deployment/{deployment}", "--replicas=1")
    await namespace.all_ready(300)


@contextmanager
def _asked_all_the_time(fleet: Fleet) -> Iterator[None]:
    """Runs of their own sessions, begun one after the other, whatever becomes of them."""
    stop, refused = threading.Event(), list[str]()

    def ask(client: httpx.Client) -> None:
        number = 0
        while not stop.wait(ASKED_EVERY_S):
            number += 1
            answer = client.post(f"/v1/sessions/background-{number}/runs", json={"query": QUESTION})
            if answer.status_code != 202:
                refused.append(answer.text)

    with fleet.reached() as reached, httpx.Client(base_url=reached.url, headers=_bearer(reached.key)) as client:
        asking = threading.Thread(target=ask, args=[client])
        asking.start()
        try:
            yield
        finally:
            stop.set()
            asking.join()
    assert refused == []


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def _approved_by(reached: Reached, admin: httpx.AsyncClient, person: str, action: str) -> None:
    async with reached.client(await key_of(admin, person)) as client:
        await approve(client, action)


async def _rejected(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/v1/orders/o-1")).json()["status"] == "rejected")
