"""A Prometheus that scrapes the pods: every fault fires its alert and no other, and every panel has data.

The rules run `prometheus.FACTOR` times faster than in production.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from tests.cluster.approvals import parked
from tests.cluster.faults import (
    QUESTION,
    agent_away,
    approved_by,
    asked_all_the_time,
    audit_gap,
    dead_letter,
    kafka_down,
    overdue_approval,
)
from tests.cluster.fleet import Fleet
from tests.cluster.prometheus import Prometheus, panels, prometheus
from tests.e2e.fleet import finished, session_events, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
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
    with prometheus([fleet.namespace], tmp_path_factory.mktemp("prometheus")) as server, asked_all_the_time(fleet):
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
            await approved_by(reached, client, "bob", await parked(client, "decided"))
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


async def _rejected(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/v1/orders/o-1")).json()["status"] == "rejected")
