"""Approve, cancel and the deadline, 500 times in every order: one outcome each."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from flotilla.approvals.policy import parse_policy
from flotilla.postgres import Pool
from tests.integration.approvals.desk import BOB, Desk, Refused, open_desk
from tests.support.waiting import eventually

TIMES = 500
AT_ONCE = 20
SHORT = """
version = "test"
[defaults]
roles = ["approver"]
deadline_s = 2
"""
CONTRADICTIONS = """
SELECT count(*) FROM flotilla.actions AS a
LEFT JOIN flotilla.approvals AS p ON p.tenant_id = a.tenant_id AND p.approval_id = a.action_id
LEFT JOIN flotilla.action_executions AS e ON e.tenant_id = a.tenant_id AND e.action_id = a.action_id
WHERE a.finished_at IS NULL
   OR (a.status = 'completed') <> (e.finished_at IS NOT NULL)
   OR (e.action_id IS NOT NULL AND p.status IS DISTINCT FROM 'approved')
   OR (a.status = 'timeout' AND p.status <> 'timeout')
   OR p.status = 'pending'
"""
VERDICTS = """
SELECT max(n) FROM (
    SELECT session_id, count(*) AS n FROM flotilla.event_outbox
    WHERE convert_from(body, 'UTF8') ~ '"change":"(action_approved|approval_timed_out|approval_cancelled)"'
    GROUP BY session_id) AS v
"""


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_of_approve_cancel_and_deadline_exactly_one_has_its_way(
    pool: Pool, unique: Callable[[str], str], temporal_client: Client
) -> None:
    seeds = random.Random(11)  # noqa: S311 - a reproducible storm, no secret
    outcomes: Counter[str] = Counter()
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(desk: Desk, *, from_the_inbox: bool) -> None:
        approve_after, cancel_after = seeds.uniform(0, 5), seeds.uniform(0, 5)
        async with turns:
            handle = await desk.submit()
            if from_the_inbox:
                await eventually(partial(desk.in_inbox, handle), timeout_s=60)
            votes = asyncio.gather(_approve(desk, handle, approve_after), _cancel(handle, cancel_after))
            try:
                outcomes[(await handle.result()).status] += 1
            except WorkflowFailureError:
                outcomes["cancelled"] += 1
            await votes

    async with open_desk(temporal_client, pool, unique("queue"), policy=parse_policy(SHORT, "short")) as desk:
        # Many deeds come too late, so that each of the three wins often; every other pair may also come too early.
        await asyncio.gather(*(one(desk, from_the_inbox=bool(number % 2)) for number in range(TIMES)))
        assert sum(outcomes.values()) == TIMES
        assert {"completed", "cancelled", "timeout"} <= set(outcomes), outcomes
        assert (await desk.rows(CONTRADICTIONS))[0][0] == 0
        assert (await desk.rows(VERDICTS))[0][0] == 1


async def _approve(desk: Desk, handle: object, after_s: float) -> None:
    await asyncio.sleep(after_s)
    try:
        await desk.decide(handle, BOB)  # type: ignore[arg-type]
    except (Refused, RPCError):
        return  # too late


async def _cancel(handle: object, after_s: float) -> None:
    await asyncio.sleep(after_s)
    try:
        await handle.cancel()  # type: ignore[attr-defined]
    except RPCError:
        return  # too late
