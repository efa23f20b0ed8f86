"""Schedules: runs that begin by the clock, in their maker's name, whether the gateway is there or not."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from flotilla.postgres import Pool, open_pool
from flotilla.schedules import ScheduleRefused, TemporalSchedules
from flotilla_devstack.ports import free_port
from gateway.schedules.syncing import sync_to_temporal
from gateway.services import GatewayServices
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.schedule_duty import ScheduleSyncDuty

QUESTION = {"query": "Who inspects the mooring lines?"}
NEVER = {"cron": ["0 0 29 2 *"]}
MADE = """
SELECT fires, request, metadata, paused, note, user_id, key_id, owner, names, sees_all, visibility, acted_by, person,
    service FROM flotilla.schedules
"""


async def make(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/schedules", json={**QUESTION, **body})
    assert answer.status_code == 201, answer.text
    schedule: dict[str, Any] = answer.json()
    return schedule


async def runs_of(client: httpx.AsyncClient, schedule_id: str, **only: str) -> list[dict[str, Any]]:
    answer = await client.get("/v1/runs", params={"schedule_id": schedule_id, **only})
    assert answer.status_code == 200, answer.text
    runs: list[dict[str, Any]] = answer.json()["runs"]
    return runs


async def test_a_schedule_shows_its_next_five_starts_in_its_time_zone(operator: httpx.AsyncClient) -> None:
    made = await make(
        operator, schedule_id="digest", cron=["30 6 * * MON-FRI"], time_zone="Europe/Berlin", overlap="buffer_one"
    )
    assert made["made_by"] == "olga"
    shown = (await operator.get("/v1/schedules/digest")).json()
    starts = [datetime.fromisoformat(start).astimezone(ZoneInfo("Europe/Berlin")) for start in shown["next_starts"]]
    assert len(starts) == 5
    assert starts == sorted(set(starts))
    assert {(start.hour, start.minute) for start in starts} == {(6, 30)}
    assert all(start.weekday() < 5 for start in starts)
    (listed,) = (await operator.get("/v1/schedules")).json()["schedules"]
    assert {**listed, "next_starts": None} == {**shown, "next_starts": None}
    again = await operator.post("/v1/schedules", json={**QUESTION, "schedule_id": "digest", "interval_s": 60})
    assert again.status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cron": ["0 6 * *"]},
        {"cron": ["nonsense at all times ever"]},
        {"cron": ["61 * * * *"]},
        {"cron": ["* * * * *"], "interval_s": 60},
        {"interval_s": 0.5},
        {"interval_s": 60, "time_zone": "Mars/Olympus"},
        {"interval_s": 60, "overlap": "sometimes"},
        {"interval_s": 60, "end_at": "2020-01-01T00:00:00Z"},
        {"interval_s": 60, "workflow": "brief"},
        {"interval_s": 60, "metadata": {"a b": "c"}},
        {"interval_s": 60, "note": "\x00"},
    ],
)
async def test_a_schedule_that_could_not_fire_is_refused_and_not_kept(
    operator: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await operator.post("/v1/schedules", json={**QUESTION, "schedule_id": "x", **body})
    assert answer.status_code == 422, answer.text
    assert (await operator.get("/v1/schedules")).json()["schedules"] == []


async def test_its_runs_are_its_makers_and_are_found_by_it(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    await make(operator, schedule_id="digest", **NEVER, metadata={"ticket": "T-1"})
    assert (await operator.post("/v1/schedules/digest/trigger")).status_code == 202

    async def done() -> dict[str, Any] | None:
        runs = await runs_of(operator, "digest", status="success")
        return runs[0] if runs else None

    run = await eventually(done, timeout_s=30)
    assert (run["user_id"], run["metadata"], run["query"]) == ("olga", {"ticket": "T-1"}, QUESTION["query"])
    assert run["session_id"] == run["run_id"]
    events = (await operator.get(f"/v1/sessions/{run['session_id']}/events")).json()["events"]
    (started,) = [event for event in events if event["data"].get("change") == "run_started"]
    assert started["data"]["details"]["schedule_id"] == "digest"
    (row,) = await worker.rows("acme", "SELECT person FROM flotilla.runs WHERE run_id = $1", run["run_id"])
    assert row["person"].endswith("olga")


async def test_it_fires_while_no_gateway_runs(
    replica: Replica, redis_url: str, temporal_address: str, gate: Gate, pool: Pool
) -> None:
    gate.is_open.set()
    async with replica() as gone:
        olga = await gone.client_of("olga", "operator", person=True)
        await make(olga, schedule_id="often", interval_s=1)
    since = datetime.now(UTC)
    async with answering(gone, redis_url, temporal_address, gate, pool=pool) as worker:

        async def two_done() -> bool:
            query = "SELECT 1 FROM flotilla.runs WHERE schedule_id = 'often' AND status = 'success' AND created_at > $1"
            return len(await worker.rows("acme", query, since)) >= 2

        await eventually(two_done, timeout_s=30)
        await worker.client.get_schedule_handle(await temporal_id(gone, "often")).delete()


async def test_a_paused_schedule_starts_nothing_until_it_is_resumed(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    made = await make(operator, schedule_id="often", interval_s=1, paused=True, note="not yet")
    assert (made["paused"], made["note"]) == (True, "not yet")
    assert await runs_of(operator, "often") == []
    resumed = await operator.patch("/v1/schedules/often", json={"paused": False, "interval_s": 2})
    assert resumed.status_code == 200, resumed.text
    assert (resumed.json()["paused"], resumed.json()["note"], resumed.json()["interval_s"]) == (False, "", 2)
    assert await eventually(lambda: runs_of(operator, "often"), timeout_s=20)
    assert (await operator.delete("/v1/schedules/often")).status_code == 200
    assert (await operator.get("/v1/schedules/often")).status_code == 404
    assert await make(operator, schedule_id="often", **NEVER)


async def test_a_schedule_pauses_when_the_key_that_it_was_made_with_is_revoked(
    gateway: RunningGateway, operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    admin = await gateway.client_of("root", "admin")
    key = (await admin.post("/v1/keys", json={"name": "nightly", "roles": ["operator"]})).json()
    service = gateway.client(key["key"])
    await make(service, schedule_id="digest", **NEVER)
    assert (await admin.delete(f"/v1/keys/{key['key_id']}")).status_code == 200
    assert (await operator.post("/v1/schedules/digest/trigger")).status_code == 404  # not theirs

    async def paused() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await admin.get("/v1/schedules/digest")).json()
        return shown if shown["paused"] else None

    shown = await eventually(paused, timeout_s=20)
    assert key["key_id"] in shown["note"]
    assert (await admin.post("/v1/schedules/digest/trigger")).status_code == 202
    described = worker.client.get_schedule_handle(await temporal_id(gateway, "digest"))

    async def fired() -> bool:
        return bool((await described.describe()).info.recent_actions)

    await eventually(fired, timeout_s=20)
    assert await runs_of(admin, "digest") == []


async def stored(gateway: RunningGateway, query: str) -> asyncpg.Record:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        row = await connection.fetchrow(query)
    finally:
        await connection.close()
    assert row is not None
    return row


async def temporal_id(gateway: RunningGateway, schedule_id: str) -> str:
    row = await stored(gateway, f"SELECT temporal_id FROM flotilla.schedules WHERE schedule_id = '{schedule_id}'")
    return str(row["temporal_id"])


async def test_made_while_temporal_is_away_it_fires_once_the_worker_is_there(
    replica: Replica, redis_url: str, temporal_address: str, gate: Gate
) -> None:
    gate.is_open.set()
    async with replica(temporal_address=f"127.0.0.1:{free_port()}") as alone:
        olga = await alone.client_of("olga", "operator", "admin", person=True)
        made = await make(olga, schedule_id="often", interval_s=1)
        assert made["next_starts"] is None
        async with answering(alone, redis_url, temporal_address, gate):
            await eventually(lambda: runs_of(olga, "often"), timeout_s=30)
        await olga.delete("/v1/schedules/often")


async def test_a_start_in_a_session_with_an_active_run_waits_for_its_turn(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    asked = (await operator.post("/v1/sessions/s/runs", json=QUESTION)).json()
    await make(operator, schedule_id="digest", **NEVER, session_id="s")
    await operator.post("/v1/schedules/digest/trigger")
    await eventually(lambda: runs_of(operator, "digest", status="queued"), timeout_s=20)
    gate.is_open.set()
    await operator.post(f"/v1/runs/{asked['run_id']}/cancel")
    await eventually(lambda: runs_of(operator, "digest", status="success"), timeout_s=30)


async def test_others_see_only_their_own_schedules(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    await make(operator, schedule_id="digest", **NEVER)
    viewer = await gateway.client_of("vera", "viewer", person=True)
    other = await gateway.client_of("otto", "operator", tenant="globex", person=True)
    assert (await other.get("/v1/schedules/digest")).status_code == 404
    assert await make(other, schedule_id="digest", **NEVER)
    assert (await viewer.get("/v1/schedules/digest")).status_code == 404
    assert (await viewer.patch("/v1/schedules/digest", json={"paused": True})).status_code == 403


async def test_a_refused_change_leaves_the_schedule_to_its_maker(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    await make(operator, schedule_id="digest", **NEVER, note="for the team")
    before = await stored(gateway, MADE)
    admin = await gateway.client_of("ada", "admin", person=True)
    refused = await admin.patch("/v1/schedules/digest", json={"cron": ["61 * * * *"], "note": "mine"})
    assert refused.status_code == 422, refused.text
    assert await stored(gateway, MADE) == before
    assert (await operator.get("/v1/schedules/digest")).json()["note"] == "for the team"


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_refused_change_takes_nothing_back_that_another_one_changed_meanwhile(
    operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    if not is_new:
        await make(operator, schedule_id="digest", **NEVER, paused=True)
    place, refused = "gateway.routes.schedules.sync_to_temporal", list[str]()

    async def refuse_the_first(services: GatewayServices, tenant_id: str, schedule_id: str, generation: int) -> None:
        if refused:
            await sync_to_temporal(services, tenant_id, schedule_id, generation)
            return
        refused.append(schedule_id)
        other = await operator.patch("/v1/schedules/digest", json={"note": "another's"})
        assert other.status_code == 200, other.text
        raise ScheduleRefused("Temporal does not take it", generation)

    monkeypatch.setattr(place, refuse_the_first)
    if is_new:
        answer = await operator.post("/v1/schedules", json={**QUESTION, **NEVER, "schedule_id": "digest"})
    else:
        answer = await operator.patch("/v1/schedules/digest", json={"note": "refused"})
    assert answer.status_code == 422, answer.text
    assert (await operator.get("/v1/schedules/digest")).json()["note"] == "another's"


async def test_a_change_is_not_laid_over_one_that_is_being_refused(
    operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(operator, schedule_id="digest", **NEVER, paused=True)
    between = list[httpx.Response]()

    async def change_before(services: GatewayServices, tenant_id: str, schedule_id: str, generation: int) -> bool:
        if not between:
            monkeypatch.undo()
            between.append(await operator.patch("/v1/schedules/digest", json={"note": "another's"}))
        return await sync_to_temporal(services, tenant_id, schedule_id, generation)

    monkeypatch.setattr("gateway.routes.schedules.sync_to_temporal", change_before)
    assert (await operator.patch("/v1/schedules/digest", json={"cron": ["61 * * * *"]})).status_code == 422
    assert (between[0].status_code, between[0].json()["code"]) == (409, "schedule_changed")
    again = await operator.patch("/v1/schedules/digest", json={"note": "another's"})
    assert (again.status_code, again.json()["cron"]) == (200, NEVER["cron"])


async def test_the_leader_does_not_pause_for_a_refused_change_what_another_one_has_changed_since(
    gateway: RunningGateway, operator: httpx.AsyncClient, temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(operator, schedule_id="digest", **NEVER)
    table = "flotilla.schedules"
    await gateway.as_superuser(f"UPDATE {table} SET generation = 2")

    async def refuse(_schedules: TemporalSchedules, _row: asyncpg.Record) -> None:
        await gateway.as_superuser(f"UPDATE {table} SET generation = 3, synced = 3")
        raise RPCError("bad cron", RPCStatusCode.INVALID_ARGUMENT, b"")

    monkeypatch.setattr(TemporalSchedules, "_apply", refuse)
    client = await Client.connect(temporal_address)
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:
        await ScheduleSyncDuty(pool, client, "queue").run_round()
    assert tuple(await stored(gateway, f"SELECT paused, generation FROM {table}")) == (False, 3)


async def test_the_limit_of_schedules_counts_everybodys_also_of_many_requests_at_once(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.schedules.records.MAX_SCHEDULES", 3)
    people = [await gateway.client_of(f"p{n}", "operator", person=True) for n in range(4)]
    made = await asyncio.gather(
        *(one.post("/v1/schedules", json={**QUESTION, **NEVER, "paused": True}) for one in people for _ in range(2))
    )
    assert sorted(one.status_code for one in made) == [201] * 3 + [409] * 5
    stranger = await gateway.client_of("eve", "operator", tenant="other", person=True)
    assert (await stranger.post("/v1/schedules", json={**QUESTION, **NEVER, "paused": True})).status_code == 201


async def test_two_who_change_a_schedule_at_once_lose_nothing_of_each_other(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    await make(operator, schedule_id="digest", **NEVER, paused=True)
    for n in range(5):
        changes = [{"note": f"note {n}"}, {"metadata": {"n": str(n)}}, {"jitter_s": float(n)}]
        answers = await asyncio.gather(*(operator.patch("/v1/schedules/digest", json=one) for one in changes))
        assert [answer.status_code for answer in answers] == [200] * 3
        shown = (await operator.get("/v1/schedules/digest")).json()
        assert (shown["note"], shown["metadata"], shown["jitter_s"]) == (f"note {n}", {"n": str(n)}, float(n))


async def test_a_change_of_what_is_not_shown_any_more_is_refused(operator: httpx.AsyncClient) -> None:
    made = await make(operator, schedule_id="digest", **NEVER, paused=True)
    change = {"note": "mine", "expected_generation": made["generation"]}
    first = await operator.patch("/v1/schedules/digest", json=change)
    assert (first.status_code, first.json()["generation"]) == (200, made["generation"] + 1)
    second = await operator.patch("/v1/schedules/digest", json={**change, "note": "other"})
    assert (second.status_code, second.json()["code"]) == (409, "schedule_changed")
    assert (await operator.get("/v1/schedules/digest")).json()["note"] == "mine"


async def test_its_runs_wait_while_their_maker_has_as_many_as_may_be_open(
    gateway: RunningGateway, operator: httpx.AsyncClient, redis_url: str, temporal_address: str, gate: Gate
) -> None:
    async with answering(gateway, redis_url, temporal_address, gate, open_runs_per_person=1) as worker:
        body = {"query": "Who?"}
        busy = (await operator.post("/v1/sessions/busy/runs", json=body)).json()["run_id"]
        await make(operator, schedule_id="digest", **NEVER)
        assert (await operator.post("/v1/schedules/digest/trigger")).status_code == 202
        temporal = await temporal_id(gateway, "digest")

        async def is_waiting() -> bool:
            schedule = worker.client.get_schedule_handle(temporal)
            return (await schedule.describe()).info.num_actions > 0

        await eventually(is_waiting, timeout_s=20)
        assert await runs_of(operator, "digest") == []
        gate.is_open.set()
        assert await eventually(lambda: runs_of(operator, "digest", status="success"), timeout_s=60)
        ended = (await operator.get(f"/v1/runs/{busy}")).json()["finished_at"]
        (run,) = await runs_of(operator, "digest")
        assert datetime.fromisoformat(run["created_at"]) >= datetime.fromisoformat(ended)
