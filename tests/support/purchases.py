"""The chaos run of model and tool calls: an agent that is killed at random instants, and what the outside says."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import asyncpg

from flotilla.bus import Redis
from flotilla.postgres import Pool
from tests.support.agents import open_session, publish, replies, rows, session_events, task
from tests.support.buyer_process import BRANCHES
from tests.support.consumers import Process, start
from tests.support.postgres import Database, agent_dsn
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually

MODULE = "tests.support.buyer_process"
_BOOKS = """
CREATE TABLE asked (question text NOT NULL, asked_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE charge_requests (task_id text NOT NULL, branch integer NOT NULL, key text NOT NULL);
CREATE TABLE charges (key text PRIMARY KEY);
GRANT INSERT, SELECT ON asked, charge_requests, charges TO flotilla_app, flotilla_agent;
"""
# Answers that were stored, with the moment at which somebody last asked for them.
_STORED = """
SELECT q.question, q.times, q.last_asked, c.created_at FROM flotilla.llm_calls AS c
JOIN (SELECT question, count(*) AS times, max(asked_at) AS last_asked FROM asked GROUP BY 1) AS q
  ON c.answer ->> 'text' = 'about ' || q.question
"""


@dataclass(frozen=True)
class Plan:
    """How hard a run is: one task is begun before each kill, until there are `rounds`."""

    rounds: int
    kills: int
    seed: int = 1
    longest_s: float = 1.2
    """Between two kills."""


async def run(plan: Plan, *, redis: Redis, redis_url: str, pool: Pool, database: Database) -> None:
    """Does all rounds, and kills the longest-lived of two agents at each random instant."""
    await _open_books(database)
    await open_session(pool)
    chance = random.Random(plan.seed)  # noqa: S311 - the same instants each time
    what = {
        "url": redis_url,
        "dsn": await agent_dsn(pool, "buyer"),
        "min_idle_ms": 300,
        "claim_s": 0.6,
        "keys": str(PUBLIC_KEY_FILE),
    }
    members = [await _member(what, chance) for _ in range(2)]
    try:
        for number in range(max(plan.rounds, plan.kills)):
            if number < plan.rounds:
                await publish(pool, redis, task(f"t{number}", agent="buyer", run_id=None))
            await asyncio.sleep(chance.uniform(0, plan.longest_s))
            if number < plan.kills:
                _end(members.pop(0))
                members.append(await _member(what, chance))
        await eventually(lambda: _all_done(pool, plan.rounds), timeout_s=120)
    finally:
        for member in members:
            _end(member)
    assert len({reply["task_id"] for reply in await replies(redis, "done", "buyer")}) == plan.rounds


async def verify(plan: Plan, pool: Pool) -> Counter[str]:
    """Checks every promise against the books of the outside; returns how often things were asked for twice."""
    asked = {row["question"] for row in await rows(pool, "SELECT question FROM asked")}
    assert len(asked) == plan.rounds * BRANCHES, "a request changed after a kill"
    stored = await rows(pool, _STORED)
    assert {row["question"] for row in stored} == asked
    assert len(stored) == len(asked), "an answer is stored twice"
    late = [row["question"] for row in stored if row["last_asked"] > row["created_at"]]
    assert late == [], "bought again after it was stored"
    keys = await rows(pool, "SELECT task_id, branch, count(DISTINCT key) AS n FROM charge_requests GROUP BY 1, 2")
    assert [row["n"] for row in keys] == [1] * plan.rounds * BRANCHES
    assert len(await rows(pool, "SELECT 1 FROM charges")) == plan.rounds * BRANCHES
    await _verify_log(plan, pool)
    charges = len(await rows(pool, "SELECT 1 FROM charge_requests"))
    answers = sum(row["times"] for row in stored)
    return Counter(answers_in_flight=answers - len(asked), charges_repeated=charges - plan.rounds * BRANCHES)


async def _verify_log(plan: Plan, pool: Pool) -> None:
    """The log shows each start of a tool, with one end, and one of them is the result."""
    events = await session_events(pool)
    calls = _by_call(events, "tool_call")
    results = _by_call(events, "tool_result")
    assert calls.keys() == results.keys()
    begun = await rows(pool, "SELECT call_id, outcome FROM flotilla.tool_calls")
    assert {row["call_id"]: row["outcome"] == "returned" for row in begun} == {
        call_id: result["data"]["ok"] for call_id, result in results.items()
    }
    paid = Counter(
        (call["taskid"], call["data"]["args"]["branch"]) for call in calls.values() if call["data"]["tool"] == "pay"
    )
    reached = Counter(
        (row["task_id"], row["branch"]) for row in await rows(pool, "SELECT task_id, branch FROM charge_requests")
    )
    assert not reached - paid, "a request reached the outside that the log does not show"
    done = [event for event in results.values() if event["data"]["ok"]]
    assert len(done) == 2 * plan.rounds * BRANCHES


def _by_call(events: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    found = [event for event in events if event["type"].split(".")[2] == kind]
    by_call = {event["data"]["call_id"]: event for event in found}
    assert len(by_call) == len(found), f"a {kind} is in the log twice"
    return by_call


async def _all_done(pool: Pool, count: int) -> bool:
    return len(await rows(pool, "SELECT 1 FROM flotilla.agent_tasks WHERE status = 'done'")) == count


async def _member(what: dict[str, Any], chance: random.Random) -> Process:
    seed = chance.randrange(10**9)
    return await asyncio.to_thread(start, MODULE, name=f"c{seed}", seed=seed, **what)


def _end(member: Process) -> None:
    member.kill()
    member.output.close()


async def _open_books(database: Database) -> None:
    owner = await asyncpg.connect(database.superuser_dsn)
    await owner.execute(_BOOKS)
    await owner.close()
