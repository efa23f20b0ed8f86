"""Runs that runs start, on real servers: whose they are, which sessions they reach, how many there may be."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.gateway.conftest import Gate, answering
from tests.integration.gateway.test_questions import ended
from tests.support.gateway import RunningGateway
from tests.support.packages import CHOOSING, CHOOSING_ENTRY_POINTS, installed, write_package
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

LIMIT = 4


@pytest.fixture
async def worker(
    gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate, tmp_path: Path
) -> AsyncIterator[RunningWorker]:
    write_package(tmp_path, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    with installed(tmp_path, "choosing"):
        async with answering(
            gateway, redis_url, temporal_address, gate, open_runs_per_person=LIMIT, open_runs_per_service=LIMIT
        ) as running:
            yield running


async def passed_on(client: httpx.AsyncClient, session_id: str, **data: Any) -> dict[str, Any]:
    """Start a run of `pass-on`; return it when it has ended."""
    body = {"workflow": "pass-on", "input": data}

    async def accepted() -> str | None:
        answer = await client.post(f"/v1/sessions/{session_id}/runs", json=body)
        return answer.json()["run_id"] if answer.status_code == 202 else None  # until the worker has published it

    return await ended(client, await eventually(accepted, timeout_s=20))


async def children(client: httpx.AsyncClient, run_id: str) -> list[dict[str, Any]]:
    page = (await client.get("/v1/runs", params={"parent_run_id": run_id})).json()
    runs: list[dict[str, Any]] = page["runs"]
    return runs


async def test_a_child_reaches_the_sessions_of_who_started_it_and_no_others_of_the_owner(
    worker: RunningWorker, gateway: RunningGateway, unique: Callable[[str], str]
) -> None:
    shared, private, bobs = unique("shared"), unique("private"), unique("bobs")
    owner = await gateway.client_of("alice", "operator", person=True)
    bob = await gateway.client_of("bob", "operator", person=True)
    for client, session_id in ((owner, shared), (owner, private), (bob, bobs)):
        assert (await client.post("/v1/sessions", json={"session_id": session_id})).is_success
    change = {"add_writers": [{"kind": "user", "name": "bob"}]}
    assert (await owner.patch(f"/v1/sessions/{shared}/access", json=change)).is_success

    own = await passed_on(owner, shared, session=private)
    assert (own["status"], own["output"]) == ("success", {"depth": 2})
    (child,) = await children(owner, own["run_id"])
    assert (child["session_id"], child["user_id"]) == (private, "alice")

    for reached, whose in ((private, "who started it"), (bobs, "its session's owner")):
        foreign = await passed_on(bob, shared, session=reached)
        assert (foreign["status"], foreign["error"]["type"]) == ("error", "Forbidden")
        assert whose in foreign["error"]["message"]
        assert await children(bob, foreign["run_id"]) == []


@pytest.mark.parametrize("is_person", [True, False])
async def test_runs_that_start_each_other_keep_the_limit_of_open_runs(
    worker: RunningWorker, gateway: RunningGateway, unique: Callable[[str], str], *, is_person: bool
) -> None:
    client = await gateway.client_of("alice", "operator", person=is_person)
    within = await passed_on(client, unique("s"), depth=LIMIT - 1)
    assert (within["status"], within["output"]) == ("success", {"depth": LIMIT})
    beyond = await passed_on(client, unique("s"), depth=50)
    assert (beyond["status"], beyond["error"]["type"]) == ("error", "TooManyRuns")
    assert f"{LIMIT} are allowed" in beyond["error"]["message"]
