"""Writers that append session events in transactions of all kinds, some of which roll back.

Each transaction notes what it appended in a row of its own (`interactions.sources`), so what was committed can be
read from the database afterwards, even where a writer lost its connection during COMMIT and doesn't know.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from flotilla.contracts.ids import new_id
from flotilla.outbox import append
from flotilla.postgres import AWAY, Connection, Pool, open_pool, set_tenant
from tests.chaos.harness.world import World
from tests.support.session_events import TENANT, create_session, message

_TROUBLE = (*AWAY, asyncpg.PostgresError)
_RETRY_S = 0.2


@dataclass(frozen=True)
class Load:
    """How much is written, by whom, and how fast. `events` counts those that roll back too."""

    events: int
    writers: int = 16
    sessions: int = 96
    rollback_share: float = 0.1
    over_s: float = 0.0
    """Spreads the writing over so many seconds; 0 writes as fast as it goes."""


@dataclass(frozen=True)
class Step:
    """One transaction of one writer: how many events for which session, and how it ends."""

    sessions: Sequence[tuple[str, int]]
    rolls_back: bool
    text: str

    @property
    def events(self) -> int:
        return sum(count for _, count in self.sessions)


def plan(load: Load, seed: int, writer: int) -> list[Step]:
    """What one writer does; the same for the same seed."""
    draw = random.Random(f"{seed}/{writer}")  # noqa: S311 - repeatable, not secret
    steps: list[Step] = []
    left = load.events // load.writers
    while left > 0:
        chosen = sorted(draw.sample(range(load.sessions), draw.choice((1, 1, 1, 2, 3))))
        sessions = [(f"session-{number:03d}", draw.randint(1, 6)) for number in chosen]
        steps.append(Step(sessions, draw.random() < load.rollback_share, "x" * draw.randint(10, 500)))
        left -= steps[-1].events
    return steps


async def write(world: World, load: Load, seed: int) -> None:
    """Carries out every writer's plan, through lost connections; returns when all is committed or rolled back."""
    async with open_pool(world.database.dsn(), application="chaos-writers", max_size=load.writers) as pool:
        await _create_sessions(pool, load)
        await asyncio.gather(*(_write_plan(pool, plan(load, seed, number), load) for number in range(load.writers)))


async def _create_sessions(pool: Pool, load: Load) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await set_tenant(connection, TENANT)
        for number in range(load.sessions):
            await create_session(connection, f"session-{number:03d}")


async def _write_plan(pool: Pool, steps: Sequence[Step], load: Load) -> None:
    began = time.monotonic()
    total = sum(step.events for step in steps)
    written = 0
    for step in steps:
        due = began + load.over_s * written / total
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        written += step.events
        await _write_step(pool, step)


async def _write_step(pool: Pool, step: Step) -> None:
    """Tries until the database answers. A transaction whose end is unknown is not repeated: its note tells."""
    while True:
        try:
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await _append_step(connection, step)
                await (transaction.rollback() if step.rolls_back else transaction.commit())
        except _TROUBLE:
            await asyncio.sleep(_RETRY_S)
        else:
            return


async def _append_step(connection: Connection, step: Step) -> None:
    await set_tenant(connection, TENANT)
    placed: list[tuple[str, int, str]] = []
    for session, count in step.sessions:
        appended = await append(connection, TENANT, session, [message(step.text)] * count)
        placed += [(session, event.sequence or 0, event.id) for event in appended.events]
    await connection.execute(
        "INSERT INTO flotilla.interactions "
        "(tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources) "
        "VALUES ($1, $2, 'chaos', $3, '', '', '', $4)",
        TENANT,
        new_id(),
        step.sessions[0][0],
        json.dumps(placed),
    )
