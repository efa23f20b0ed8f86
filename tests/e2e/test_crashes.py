"""The promises under kill -9: runs finish, stored answers are not bought again, the log stays whole."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.fleet import SERVICES, Fleet, finished, session_events, start_run
from tests.e2e.stores import projected_events, query
from tests.e2e.stub_endpoint import StubEndpoint
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos
RUNS_AT_A_TIME = 20
_STORED_ANSWERS = "SELECT count(*) FROM flotilla.llm_calls WHERE run_id = $1"
_INTERACTIONS = "SELECT count(*) FROM flotilla.interactions WHERE run_id = $1"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", SERVICES)
async def test_killing_a_service_under_twenty_runs_loses_and_repeats_nothing(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str], victim: str
) -> None:
    batch = unique(victim)
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            starting = [_start(client, batch, number) for number in range(RUNS_AT_A_TIME)]
            run_ids = dict(await asyncio.gather(*starting))
            await llm_fleet.kill(victim)
            runs = [await finished(client, run_id, timeout_s=180) for run_id in run_ids.values()]
        assert [run["status"] for run in runs] == ["success"] * RUNS_AT_A_TIME
        asked = stub_llm.requests()
        for session_id, run_id in run_ids.items():
            await _check_log(llm_fleet, client, session_id)
            # A call that was cut off before it was stored may be made again; a stored answer never is.
            assert (await query(llm_fleet, _STORED_ANSWERS, run_id))[0][0] == 1
            if victim != "writer-agent":
                assert asked[_question(session_id)] == 1


@pytest.mark.timeout(300)
async def test_worker_killed_between_model_and_save_asks_the_model_once(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    session_id = unique("saved")
    question = _question(session_id)
    worker = int(llm_fleet.process("workflow-worker")["pid"])
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            run_id = await start_run(client, session_id, question, session_id)
            await eventually(lambda: question in stub_llm.requests(), timeout_s=60)
            os.kill(worker, signal.SIGSTOP)  # so that the save can't come before the kill
            await eventually(lambda: _stored(llm_fleet, run_id), timeout_s=60)
        assert (await query(llm_fleet, _INTERACTIONS, run_id))[0][0] == 0
        await llm_fleet.kill("workflow-worker")
        run = await finished(client, run_id, timeout_s=120)
        assert run["status"] == "success"
        assert stub_llm.requests()[question] == 1
        assert (await query(llm_fleet, _INTERACTIONS, run_id))[0][0] == 1
        await _check_log(llm_fleet, client, session_id)


@pytest.mark.timeout(300)
async def test_runs_in_flight_survive_the_loss_of_all_of_redis(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    batch = unique("flushed")
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            run_ids = dict(await asyncio.gather(*(_start(client, batch, number) for number in range(RUNS_AT_A_TIME))))
            await llm_fleet.flush_redis()
            runs = [await finished(client, run_id, timeout_s=180) for run_id in run_ids.values()]
        assert [run["status"] for run in runs] == ["success"] * RUNS_AT_A_TIME
        for session_id in run_ids:
            await _check_log(llm_fleet, client, session_id)


async def _start(client: httpx.AsyncClient, batch: str, number: int) -> tuple[str, str]:
    session_id = f"{batch}-{number}"
    return session_id, await start_run(client, session_id, _question(session_id), session_id)


def _question(session_id: str) -> str:
    return f"What do the documents say about {session_id}?"


async def _stored(fleet: Fleet, run_id: str) -> bool:
    return bool((await query(fleet, _STORED_ANSWERS, run_id))[0][0])


async def _check_log(fleet: Fleet, client: httpx.AsyncClient, session_id: str) -> None:
    """The session's log has no hole and no double, and the projection equals it."""
    events: list[dict[str, Any]] = await session_events(client, session_id)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)
    ids = [event["id"] for event in events]

    async def projected() -> bool:
        return [row["event_id"] for row in await projected_events(fleet, session_id)] == ids

    await eventually(projected, timeout_s=60, every_s=0.2)
