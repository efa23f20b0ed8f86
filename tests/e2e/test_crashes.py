"""The promises under kill -9: runs finish, stored answers are not bought again, the log stays whole."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.fleet import Fleet, finished, session_events, start_run
from tests.e2e.stores import projected_events, query
from tests.e2e.stub_endpoint import StubEndpoint
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually

RUNS_AT_A_TIME = 20
RUNS_PER_VICTIM = 4
_STORED_ANSWERS = "SELECT created_at FROM flotilla.llm_calls WHERE run_id = $1"
_INTERACTIONS = "SELECT count(*) FROM flotilla.interactions WHERE run_id = $1"


@pytest.mark.timeout(600)
async def test_killing_every_service_in_turn_loses_and_repeats_nothing(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    run_ids: dict[str, str] = {}
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            for victim in SERVICES:
                run_ids |= await _start_batch(client, unique(victim), RUNS_PER_VICTIM)
                await llm_fleet.kill(victim)
            runs = [await finished(client, run_id) for run_id in run_ids.values()]
        assert [run["status"] for run in runs] == ["success"] * len(run_ids)
        await _check_nothing_lost_or_bought_twice(llm_fleet, client, stub_llm, run_ids)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", SERVICES)
async def test_killing_a_service_under_twenty_runs_loses_and_repeats_nothing(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str], victim: str
) -> None:
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            run_ids = await _start_batch(client, unique(victim), RUNS_AT_A_TIME)
            await llm_fleet.kill(victim)
            runs = [await finished(client, run_id) for run_id in run_ids.values()]
        assert [run["status"] for run in runs] == ["success"] * RUNS_AT_A_TIME
        await _check_nothing_lost_or_bought_twice(llm_fleet, client, stub_llm, run_ids)
        if victim != "writer-agent":  # its calls that were cut off before they were stored are made again
            asked = stub_llm.requests()
            assert {session_id: asked[_question(session_id)] for session_id in run_ids} == dict.fromkeys(run_ids, 1)


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
            await eventually(lambda: question in stub_llm.requests(), timeout_s=120)
            os.kill(worker, signal.SIGSTOP)  # so that the save can't come before the kill
            await eventually(lambda: _stored(llm_fleet, run_id), timeout_s=120)
        assert (await query(llm_fleet, _INTERACTIONS, run_id))[0][0] == 0
        await llm_fleet.kill("workflow-worker")
        run = await finished(client, run_id)
        assert run["status"] == "success"
        assert stub_llm.requests()[question] == 1
        assert (await query(llm_fleet, _INTERACTIONS, run_id))[0][0] == 1
        await _check_log(llm_fleet, client, session_id)


@pytest.mark.timeout(300)
async def test_runs_in_flight_survive_the_loss_of_all_of_redis(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    async with llm_fleet.client() as client:
        with stub_llm.acting("slow"):
            run_ids = await _start_batch(client, unique("flushed"), RUNS_AT_A_TIME)
            await llm_fleet.flush_redis()
            runs = [await finished(client, run_id) for run_id in run_ids.values()]
        assert [run["status"] for run in runs] == ["success"] * RUNS_AT_A_TIME
        await _check_nothing_lost_or_bought_twice(llm_fleet, client, stub_llm, run_ids)


async def _start_batch(client: httpx.AsyncClient, batch: str, runs: int) -> dict[str, str]:
    """Starts so many runs at once, each in a session of its own: session → run."""
    return dict(await asyncio.gather(*(_start(client, batch, number) for number in range(runs))))


async def _start(client: httpx.AsyncClient, batch: str, number: int) -> tuple[str, str]:
    session_id = f"{batch}-{number}"
    return session_id, await start_run(client, session_id, _question(session_id), session_id)


def _question(session_id: str) -> str:
    return f"What do the documents say about {session_id}?"


async def _stored(fleet: Fleet, run_id: str) -> bool:
    return bool(await query(fleet, _STORED_ANSWERS, run_id))


async def _check_nothing_lost_or_bought_twice(
    fleet: Fleet, client: httpx.AsyncClient, stub: StubEndpoint, run_ids: dict[str, str]
) -> None:
    """Whole logs, one stored answer for each run, and no request for it from then on."""
    asked_at = stub.request_times()
    for session_id, run_id in run_ids.items():
        await _check_log(fleet, client, session_id)
        (stored,) = await query(fleet, _STORED_ANSWERS, run_id)
        assert max(asked_at[_question(session_id)]) <= stored["created_at"], session_id


async def _check_log(fleet: Fleet, client: httpx.AsyncClient, session_id: str) -> None:
    """The session's log has no hole and no double, and the projection equals it."""
    events: list[dict[str, Any]] = await session_events(client, session_id)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)
    ids = [event["id"] for event in events]

    async def projected() -> bool:
        return [row["event_id"] for row in await projected_events(fleet, session_id)] == ids

    await eventually(projected, timeout_s=120, every_s=0.2)
