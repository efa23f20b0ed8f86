"""The chaos run: many tasks over consumers that are killed and paused, with poison among them."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import asyncpg

from flotilla.bus import BusHousekeeping, Redis, ensure_group
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.entries import make_xadd_command
from flotilla.bus.housekeeping import load_group_states
from flotilla.bus.tickets import SignedEvent, sign_event
from flotilla.contracts import AgentEvent
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import agent_group, task_stream
from flotilla.contracts.tasks import TASK_REQUESTED, AgentTask
from flotilla.postgres import Pool
from tests.support.agents import delegate, open_session, replies, rows, task
from tests.support.consumers import Process, start
from tests.support.postgres import Database, agent_dsn
from tests.support.tickets import PUBLIC_KEY_FILE, SIGNER
from tests.support.waiting import eventually

STREAM = task_stream("payer")
GROUP = agent_group("payer")
MODULE = "tests.support.agent_process"


@dataclass
class Plan:
    """How hard a run is."""

    tasks: int
    consumers: int = 4
    kill_every_s: float = 1.0
    min_idle_ms: int = 2_000
    poison_share: float = 0.01
    timeout_s: float = 600.0
    seed: int = 1


@dataclass(frozen=True)
class Ended:
    """What a run left."""

    poisoned: set[str]
    kills: int
    seconds: float
    slowest_redelivery_s: float
    """From a kill to the moment when nothing that the victim had in hand was its own any more."""


async def prepare(database: Database, pool: Pool) -> None:
    """The table that payments go to, outside of Flotilla's own schema, and the session."""
    owner = await asyncpg.connect(database.superuser_dsn)
    await owner.execute("CREATE TABLE payments (account text NOT NULL, task_id text NOT NULL)")
    await owner.execute("GRANT INSERT, SELECT ON payments TO flotilla_app, flotilla_agent")
    await owner.close()
    await open_session(pool)


async def publish_all(pool: Pool, redis: Redis, plan: Plan) -> set[str]:
    """All tasks at once; returns the ids of those that can't be handled: a version of the type that nobody knows."""
    chance = random.Random(plan.seed)  # noqa: S311 - the same poison each time
    poisoned = set(chance.sample([f"t{n}" for n in range(plan.tasks)], int(plan.tasks * plan.poison_share)))
    await ensure_group(redis, STREAM, GROUP)
    await delegate(pool, *(_payment(f"t{n}") for n in range(plan.tasks)))
    for first in range(0, plan.tasks, 500):
        async with redis.pipeline(transaction=False) as pipe:
            for n in range(first, min(first + 500, plan.tasks)):
                pipe.execute_command(*make_xadd_command(STREAM, _requested(f"t{n}", poisoned=f"t{n}" in poisoned)))
            await pipe.execute()
    return poisoned


def _payment(task_id: str) -> AgentTask:
    return task(task_id, agent="payer", input={"account": task_id})


def _requested(task_id: str, *, poisoned: bool) -> SignedEvent:
    wanted = _payment(task_id)
    kind = TASK_REQUESTED.replace(".v1", ".v2") if poisoned else TASK_REQUESTED
    event = AgentEvent(type=kind, source="/tests", subject=wanted.session_id, data=to_builtins(wanted))
    return sign_event(event, SIGNER)


class Fleet:
    """The consumers of a run, one of which is killed now and then, and another one paused once."""

    def __init__(self, plan: Plan, redis_url: str, dsn: str) -> None:
        self._plan = plan
        self._what: dict[str, Any] = {
            "url": redis_url,
            "dsn": dsn,
            "min_idle_ms": plan.min_idle_ms,
            "keys": str(PUBLIC_KEY_FILE),
        }
        self._members: dict[str, Process] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._started = 0
        self._paused = ""
        self._killed_at: dict[str, float] = {}
        self.kills = 0
        self.slowest_redelivery_s = 0.0

    async def __aenter__(self) -> "Fleet":
        await asyncio.gather(*(self._start() for _ in range(self._plan.consumers)))
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.gather(*self._starting)
        for member in self._members.values():
            member.resume()
            member.kill()
            member.output.close()

    async def _start(self) -> None:
        self._started += 1
        name = f"c{self._started}"
        self._members[name] = await asyncio.to_thread(start, MODULE, name=name, **self._what)

    def kill_one(self) -> None:
        """kill -9 of the longest-lived, and a new one in its place, which takes a moment. Half of them are left to
        work: where a start takes seconds, nobody would live until it claims what the others left."""
        at_work = [name for name in self._members if name != self._paused]
        if len(at_work) <= self._plan.consumers // 2:
            return
        victim = self._members.pop(at_work[0])
        victim.kill()
        victim.output.close()
        self._killed_at[at_work[0]] = time.monotonic()
        self.kills += 1
        starting = asyncio.create_task(self._start())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    @property
    def all_taken_over(self) -> bool:
        """Whether nobody that was killed owns anything any more."""
        return not self._killed_at

    async def watch(self, redis: Redis) -> None:
        """Notes, until it is cancelled, when others have taken over everything of a victim."""
        while True:
            asked = time.monotonic()
            owners = {row["name"].decode() for row in (await redis.xpending(STREAM, GROUP))["consumers"]}
            for name, killed_at in list(self._killed_at.items()):
                if killed_at < asked and name not in owners:
                    self.slowest_redelivery_s = max(self.slowest_redelivery_s, asked - killed_at)
                    del self._killed_at[name]
            await asyncio.sleep(0.1)

    async def pause_one(self) -> None:
        """SIGSTOP of one for three times min-idle."""
        self._paused, member = next(reversed(self._members.items()))
        member.pause()
        await asyncio.sleep(3 * self._plan.min_idle_ms / 1000)
        member.resume()
        self._paused = ""


async def run(plan: Plan, *, redis: Redis, redis_url: str, pool: Pool, database: Database) -> Ended:
    """Publishes everything, harms the consumers until all is handled."""
    await prepare(database, pool)
    async with Fleet(plan, redis_url, await agent_dsn(pool, "payer")) as fleet:
        poisoned = await publish_all(pool, redis, plan)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(fleet.pause_one())
            watch = group.create_task(fleet.watch(redis))
            next_kill = started + plan.kill_every_s
            while not await _all_handled(redis):
                assert time.monotonic() - started < plan.timeout_s, await load_group_states(redis, STREAM)
                if time.monotonic() > next_kill:
                    fleet.kill_one()
                    next_kill = time.monotonic() + plan.kill_every_s
                await asyncio.sleep(0.1)
            await eventually(lambda: fleet.all_taken_over)
            watch.cancel()
        await eventually(lambda: _all_handled(redis), timeout_s=30)
        return Ended(poisoned, fleet.kills, time.monotonic() - started, fleet.slowest_redelivery_s)


async def verify(plan: Plan, ended: Ended, *, redis: Redis, pool: Pool) -> None:
    """Every task has exactly one result and one effect; all of the poison, and nothing else, is a dead letter."""
    innocent = {f"t{n}" for n in range(plan.tasks)} - ended.poisoned
    paid = [row["task_id"] for row in await rows(pool, "SELECT task_id FROM payments")]
    assert len(paid) == len(set(paid))
    assert set(paid) == innocent
    done = await rows(pool, "SELECT task_id FROM flotilla.agent_tasks WHERE status = 'done'")
    assert {row["task_id"] for row in done} == innocent
    lettered = await rows(pool, "SELECT task_id FROM flotilla.agent_tasks WHERE status = 'dead_lettered'")
    assert {row["task_id"] for row in lettered} == ended.poisoned
    letters = PostgresDeadLetterStore(pool)
    kept = await letters.list_dead_letters("default", limit=10_000)
    assert {letter.task_id for letter in kept} == ended.poisoned
    actions = await rows(
        pool, "SELECT task_id, count(*) AS n FROM flotilla.agent_actions GROUP BY 1 HAVING count(*) > 1"
    )
    assert actions == []
    failed = {reply["task_id"] for reply in await replies(redis, "failed", "payer")}
    assert failed == ended.poisoned
    await BusHousekeeping(redis, _payer).run_round()
    assert await execute_redis_command(redis, "XLEN", STREAM) == 0


async def _payer() -> list[str]:
    return ["payer"]


async def _all_handled(redis: Redis) -> bool:
    (state,) = await load_group_states(redis, STREAM)
    return state.lag == 0 and state.pending == 0
