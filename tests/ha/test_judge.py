"""The judge finds what is lost, doubled or out of order, and what took too long."""

import uuid
from collections.abc import AsyncIterator
from subprocess import CompletedProcess

import asyncpg
import pytest

from tests.ha.harness.items import Item
from tests.ha.harness.judge import Judge, Verdict
from tests.ha.harness.scenario import each_over
from tests.ha.soak.trend import trends
from tests.ha.soak.usage import Usage
from tests.support.postgres import Database

_SESSION = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq) VALUES ('default', $1, 'someone', $2)
"""
_EVENT = """
INSERT INTO audit.session_events (tenant_id, session_id, seq, event_id, type, occurred_at, kafka_partition,
    kafka_offset, hash, body, event)
VALUES ('default', $1, $2, $3, 't', now(), 0, $4, '', '', $5::jsonb)
"""
_APPROVED = '{"data": {"change": "action_approved"}}'


class History:
    """Writes a projection as it should not be."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def session(self, name: str, head: int) -> None:
        await self._connection.execute(_SESSION, name, head)

    async def event(self, session: str, seq: int, offset: int, *, event_id: str = "", event: str = "{}") -> None:
        await self._connection.execute(_EVENT, session, seq, event_id or str(uuid.uuid4()), offset, event)


@pytest.fixture
async def history(database: Database) -> AsyncIterator[History]:
    connection = await asyncpg.connect(database.superuser_dsn)
    yield History(connection)
    await connection.close()


@pytest.fixture
def judge(database: Database) -> Judge:
    return Judge(lambda: database.superuser_dsn, lambda: CompletedProcess((), 0, "", ""), "b")


async def test_a_whole_history_is_in_order(history: History, judge: Judge) -> None:
    await history.session("b-1", 2)
    await history.event("b-1", 1, 10)
    await history.event("b-1", 2, 11)
    assert await judge.lost([_over("event", "projected")]) == []
    assert await judge.doubled() == []
    assert await judge.out_of_order() == []
    assert await judge.events() == 2


async def test_an_event_that_is_not_projected_is_lost(history: History, judge: Judge) -> None:
    await history.session("b-1", 2)
    await history.event("b-1", 1, 10)
    assert await judge.lost([], within_s=0) == ["b-1: 1 of 2 events"]


async def test_a_session_with_another_batch_is_not_looked_at(history: History, judge: Judge) -> None:
    await history.session("other-1", 2)
    assert await judge.lost([], within_s=0) == []


@pytest.mark.parametrize("outcome", ["error", ""])
async def test_work_that_did_not_end_well_is_lost(judge: Judge, outcome: str) -> None:
    item = _over("run", outcome) if outcome else Item("run", "", "b-run")
    assert await judge.lost([item]) == [f"run b-run: {outcome or 'never over'}"]


async def test_an_event_that_is_projected_twice_is_doubled(history: History, judge: Judge) -> None:
    twice = str(uuid.uuid4())
    await history.session("b-1", 2)
    await history.event("b-1", 1, 10, event_id=twice)
    await history.event("b-1", 2, 11, event_id=twice)
    assert await judge.doubled() == [f"event {twice}"]


async def test_an_action_that_is_approved_twice_is_doubled(history: History, judge: Judge) -> None:
    await history.session("b-1", 2)
    await history.event("b-1", 1, 10, event=_APPROVED)
    await history.event("b-1", 2, 11, event=_APPROVED)
    assert await judge.doubled() == ["approval of b-1"]


async def test_events_that_kafka_has_the_other_way_round_are_out_of_order(history: History, judge: Judge) -> None:
    await history.session("b-1", 2)
    await history.event("b-1", 1, 11)
    await history.event("b-1", 2, 10)
    assert await judge.out_of_order() == ["b-1 at 2"]


def test_callers_may_see_503_with_retry_after_and_nothing_else() -> None:
    assert _verdict({"503": 9}).problems() == []
    assert _verdict({"500": 1}).problems() == ["callers saw 500 1 times"]
    assert _verdict({"503 without Retry-After": 2}).problems() == ["callers saw 503 without Retry-After 2 times"]


def test_recovery_waits_for_each_kind_and_place() -> None:
    items = [Item("event", "0", "a", began=1, over=2), Item("event", "1", "b", began=1, over=9)]
    assert each_over(items, since=0) == 9
    assert each_over(items, since=1.5) is None
    items += [Item("event", "0", "c", began=3, over=4), Item("event", "1", "d", began=3)]
    assert each_over(items, since=2) is None
    items[-1].over = 5
    assert each_over(items, since=2) == 5


def test_what_a_process_uses_more_of_in_the_end_has_grown() -> None:
    rows = [Usage(float(at), "gateway", 100 + at, 10, 20, 1) for at in range(0, 300, 10)]
    grew = {trend.measure for trend in trends(rows) if trend.grew}
    assert grew == {"memory_mb"}


def test_work_that_a_failover_moves_to_another_node_has_not_grown() -> None:
    times = [float(at) for at in range(0, 300, 10)]
    busy, idle = ("postgres-1", "postgres-2"), ("postgres-2", "postgres-1")
    rows = [
        Usage(at, name, used, used, used, 1)
        for at in times
        for name, used in zip(busy if at < 200 else idle, (100, 5), strict=True)
    ]
    assert [trend for trend in trends(rows) if trend.grew] == []


def _over(kind: str, outcome: str) -> Item:
    item = Item(kind, "", f"b-{kind}")  # type: ignore[arg-type]
    item.end(outcome)
    return item


def _verdict(seen: dict[str, int]) -> Verdict:
    return Verdict(
        name="n",
        counts={},
        lost=(),
        doubled=(),
        out_of_order=(),
        chain="",
        slowest_run_s=0,
        seen=seen,
        slowest_request_s=0,
    )
