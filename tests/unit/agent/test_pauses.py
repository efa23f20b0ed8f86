"""A call that waits for people ends after the calls beside it, and waits for none that waits for it."""

import asyncio

import pytest

from flotilla.agent import ApprovalPending
from flotilla.agent.pauses import RunningToolCalls


async def pend(pauses: RunningToolCalls) -> None:
    async with pauses.track_call():
        raise ApprovalPending


async def first_to_raise(*calls: "asyncio.Task[None]") -> None:
    """As frameworks do it: one that raises cancels the others."""
    try:
        await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()


async def test_a_call_beside_one_that_pauses_is_let_end() -> None:
    pauses, ended = RunningToolCalls(), []

    async def work() -> None:
        async with pauses.track_call():
            await asyncio.sleep(0.1)
            ended.append(True)

    with pytest.raises(ApprovalPending):
        await first_to_raise(asyncio.create_task(pend(pauses)), asyncio.create_task(work()))
    assert ended == [True]


async def test_calls_that_pause_together_all_do() -> None:
    pauses = RunningToolCalls()
    ends = await asyncio.gather(*(pend(pauses) for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [ApprovalPending] * 5


async def test_a_call_inside_another_does_not_wait_for_it() -> None:
    pauses = RunningToolCalls()

    async def outer() -> None:
        async with pauses.track_call():
            await pend(pauses)

    async with asyncio.timeout(5):
        ends = await asyncio.gather(outer(), pend(pauses), outer(), return_exceptions=True)
    assert [type(end) for end in ends] == [ApprovalPending] * 3


async def test_a_call_that_fails_keeps_nobody_waiting() -> None:
    pauses = RunningToolCalls()

    async def fail() -> None:
        async with pauses.track_call():
            await asyncio.sleep(0.05)
            raise ValueError

    async with asyncio.timeout(5):
        ends = await asyncio.gather(pend(pauses), fail(), return_exceptions=True)
    assert [type(end) for end in ends] == [ApprovalPending, ValueError]
