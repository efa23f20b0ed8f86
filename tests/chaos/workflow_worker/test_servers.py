"""Schedules, waiting runs and notices over kill -9 of every server and service, and over an outage of the gateway."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client, ScheduleBackfill, ScheduleOverlapPolicy

from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla_devstack.ports import free_port
from tests.chaos.workflow_worker.test_queued_runs import send
from tests.e2e.fleet import Fleet, finished, session_events
from tests.e2e.stores import query
from tests.support.receiver import SECRET, SIGNING_KEY, Receiver
from tests.support.waiting import eventually
from workflow_worker.webhook_signatures import sign_webhook

SERVERS = ("redis", "postgres", "temporal", "kafka")
SERVICES = ("workflow-worker", "gateway", "outbox-relay", "audit-consumer")
WAITING = 12
INTERVAL_S = 2
FIRED = """
SELECT run_id, status FROM flotilla.runs WHERE schedule_id = $1 AND created_at > $2 ORDER BY created_at
"""


@pytest.fixture(scope="module")
def receiver() -> Receiver:
    return Receiver(free_port())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Fleet]:
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / "default.hooks").write_text(SECRET)
    environment = {
        "OPENAI_API_KEY": "",
        "FLOTILLA_NOTIFY_HOSTS": f"http://127.0.0.1:{receiver.port}",
        "FLOTILLA_NOTIFY_SECRETS": str(secrets),
    }
    started = Fleet(tmp_path_factory.mktemp("servers-fleet"), environment)
    try:
        started.up()
        yield started
    finally:
        started.down()


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    async with fleet.client("admin") as running:
        yield running


async def made(client: httpx.AsyncClient, schedule_id: str, **body: Any) -> None:
    answer = await client.post("/v1/schedules", json={"schedule_id": schedule_id, "query": "Who?", **body})
    assert answer.status_code == 201, answer.text


async def fired(fleet: Fleet, schedule_id: str, since: datetime) -> list[str]:
    """The statuses of the schedule's runs; none while the database is away."""
    try:
        return [row["status"] for row in await query(fleet, FIRED, schedule_id, since)]
    except (OSError, ConnectionError):
        return []


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_schedules_waiting_runs_and_notices_survive_kill_9_of_every_server_and_service(
    fleet: Fleet, client: httpx.AsyncClient, receiver: Receiver, unique: Callable[[str], str]
) -> None:
    schedule_id, session_id = unique("often"), unique("s")
    async with receiver.listening():
        hook = {"url": receiver.url, "secret_ref": "hooks"}
        assert (await client.put("/v1/notify", json=hook)).is_success
        await made(client, schedule_id, interval_s=INTERVAL_S)
        sending = asyncio.create_task(_sent(client, session_id))
        for victim in (*SERVERS, *SERVICES):
            await fleet.kill(victim)
            since = datetime.now(UTC)

            async def fires(since: datetime = since) -> bool:
                return "success" in await fired(fleet, schedule_id, since)

            await eventually(fires, timeout_s=120, every_s=0.5)
        run_ids = await sending
        runs = [await finished(client, run_id, timeout_s=300) for run_id in run_ids]
        assert {run["status"] for run in runs} == {"success"}
        events = await session_events(client, session_id)
        for change in ("run_started", "run_finished"):
            assert [event["runid"] for event in events if event["data"].get("change") == change] == run_ids
        assert (await client.delete(f"/v1/schedules/{schedule_id}")).is_success
        scheduled = await query(fleet, "SELECT run_id FROM flotilla.runs WHERE schedule_id = $1", schedule_id)
        all_runs = [*run_ids, *(row["run_id"] for row in scheduled)]
        await eventually(
            lambda: all(receiver.taken(run_id)[-1:] == ["run.finished"] for run_id in all_runs), timeout_s=300
        )
    for _, headers, body in receiver.got:
        signed = sign_webhook(SIGNING_KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert headers["webhook-signature"] == signed
    by_notice = {(headers["webhook-id"], body) for _, headers, body in receiver.got}
    assert len(by_notice) == len({notice for notice, _ in by_notice}), "a repeated notice says the same"


async def _sent(client: httpx.AsyncClient, session_id: str) -> list[str]:
    return [await send(client, session_id, f"{session_id} message {n}", "enqueue") for n in range(WAITING)]


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_schedule_of_thirty_days_starts_one_run_a_day_also_where_the_clocks_change(
    fleet: Fleet, client: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    schedule_id = unique("daily")
    await made(client, schedule_id, cron=["30 2 * * *"], time_zone="Europe/Berlin", metadata={"of": "october"})
    (row,) = await query(fleet, "SELECT temporal_id FROM flotilla.schedules WHERE schedule_id = $1", schedule_id)
    port = fleet.process("temporal")["ports"]["grpc"]
    temporal = await Client.connect(f"127.0.0.1:{port}")
    # Clocks go back on the 25th: 2:30 comes twice.
    days = ScheduleBackfill(
        start_at=datetime(2026, 10, 10, tzinfo=UTC),
        end_at=datetime(2026, 11, 9, tzinfo=UTC),
        overlap=ScheduleOverlapPolicy.ALLOW_ALL,
    )
    await temporal.get_schedule_handle(row["temporal_id"]).backfill(days)

    async def all_done() -> bool:
        return (await fired(fleet, schedule_id, datetime.fromtimestamp(0, UTC))).count("success") >= 30

    await eventually(all_done, timeout_s=300, every_s=1)
    runs = (await client.get("/v1/runs", params={"schedule_id": schedule_id, "limit": 100})).json()["runs"]
    nominal = [run["run_id"].removeprefix(f"{row['temporal_id']}-") for run in runs]
    assert sorted(one[:10] for one in nominal) == [
        (datetime(2026, 10, 10, tzinfo=UTC) + timedelta(days=day)).date().isoformat() for day in range(30)
    ]
    assert {run["metadata"]["of"] for run in runs} == {"october"}


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_schedule_fires_twice_and_more_while_the_gateway_is_out(
    fleet: Fleet, client: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    schedule_id = unique("often")
    await made(client, schedule_id, interval_s=INTERVAL_S)
    with fleet.paused("gateway"):
        since = datetime.now(UTC)

        async def two_succeeded() -> bool:
            return (await fired(fleet, schedule_id, since)).count("success") >= 2

        await eventually(two_succeeded, timeout_s=60, every_s=0.5)
    assert (await client.delete(f"/v1/schedules/{schedule_id}")).is_success

    async def all_ended() -> bool:
        return not set(await fired(fleet, schedule_id, since)) & set(OPEN_RUN_STATUSES)

    await eventually(all_ended, timeout_s=60, every_s=0.5)
    assert set(await fired(fleet, schedule_id, since)) == {"success"}
    listed = (await client.get("/v1/runs", params={"schedule_id": schedule_id, "limit": 200})).json()["runs"]
    assert len(listed) >= len(await fired(fleet, schedule_id, since))
