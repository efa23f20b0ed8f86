"""Prints what one more hop of a routing slip costs, today and in an earlier commit, measured in turns, and which
statements and commands it takes.

    python -m benchmarks.run_latency.hops [--against COMMIT] [--rounds 10] [--runs 10] [--hops 9]

The cost is that of a slip of so many hops less that of one hop, per hop: far steadier than the difference of two short
slips. Each version has a worker, an agent, a Redis, a Temporal and a database of its own, on one machine and one
PostgreSQL; the earlier one runs from a temporary worktree with today's third-party packages. `--against ''` measures
today alone.
"""

import argparse
import asyncio
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from temporalio.client import Client
from temporalio.converter import DataConverter

from benchmarks.run_latency.slips import QUEUE, SESSION, TENANT, DelegateSlip
from flotilla.bus import Redis, connect_redis
from flotilla.config.signing import create_key_pair
from flotilla_devstack import RunningStack, stack_for_tests
from tests.support.postgres import Database, drop, with_database

BEFORE_TRUST = "71cbb0d"
"""The last commit before tickets and reply streams, in which agents forwarded slips themselves."""
_MIGRATE = "import sys; from flotilla.postgres.migrate import migrate; migrate(sys.argv[1])"
# What each statement of the database did, of those that clients sent.
_CALLS = """
SELECT s.query, s.calls FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid
WHERE d.datname = current_database() AND s.toplevel
"""
_NAME = re.compile(r"flotilla(?:_ops)?\.(\w+)")
_TICKS = os.sysconf("SC_CLK_TCK")
_OFTEN = 0.5
"""Per hop: what goes on beside the slips is far less."""
_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'bench')"


@dataclass(frozen=True)
class Version:
    """A version's name, and where its packages are; no folders: as installed."""

    name: str
    folders: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join(map(str, self.folders))} if self.folders else {}


@contextmanager
def worktree(commit: str) -> Iterator[Version]:
    """The commit in a folder of its own."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / commit
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(folder), commit], check=True)
        try:
            packages = (folder / "shared/flotilla/src", *sorted((folder / "services").iterdir()))
            yield Version(commit, packages)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder)], check=True)


@asynccontextmanager
async def database_of(version: Version, server: str) -> AsyncIterator[Database]:
    """A database as the version makes it, with a session."""
    name = f"flotilla_hops_{secrets.token_hex(4)}"
    await _execute(server, f'CREATE DATABASE "{name}"')
    database = Database(with_database(server, name))
    try:
        command = [sys.executable, "-c", _MIGRATE, database.superuser_dsn]
        await asyncio.to_thread(subprocess.run, command, env={**os.environ, **version.environment}, check=True)
        await _execute(database.superuser_dsn, _SESSION, TENANT, SESSION)
        yield database
    finally:
        await drop(server, name)


async def _execute(dsn: str, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Fleet:
    """A version at work."""

    client: Client
    database: Database
    redis: Redis
    pids: list[int]
    """Of its processes."""

    def cpu_ms(self) -> float:
        """Processor time that its processes used so far, user and system (proc(5), fields 14 and 15 of stat)."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids]
        return sum(int(user) + int(system) for user, system in (one[11:13] for one in fields)) * 1000 / _TICKS


@asynccontextmanager
async def fleet(
    stack: RunningStack, version: Version, database: Database, converter: DataConverter = DataConverter.default
) -> AsyncIterator[Fleet]:
    """The version's worker and agent as processes, and a worker for the measured workflow, of whose results `converter`
    is the reader."""
    key = stack.scratch_folder() / "tickets.pem"
    create_key_pair(key, key.with_suffix(".pub"))
    redis, temporal = stack.extra_redis(), stack.extra_temporal()
    common = {
        **version.environment,
        "FLOTILLA_REDIS_URL": redis.url,
        "FLOTILLA_TEMPORAL_ADDRESS": temporal.address,
        "FLOTILLA_LOG_LEVEL": "warning",
        "FLOTILLA_TICKET_KEY_FILE": str(key),
        "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(key.with_suffix(".pub")),
    }
    worker_role, agent_role = (
        ("flotilla_app", "flotilla_app") if version.folders else ("flotilla_worker", "flotilla_agent")
    )
    of_worker = {**common, "FLOTILLA_POSTGRES_DSN": database.dsn(worker_role)}
    of_agent = {**common, "FLOTILLA_POSTGRES_DSN": database.dsn(agent_role)}
    echo = (sys.executable, "-m", "benchmarks.run_latency.echo_agent")
    services = [
        stack.service("workflow-worker", env=of_worker),
        stack.service("research-agent", env=of_agent, argv=echo),
    ]
    for service in services:
        service.start()
    command = [sys.executable, "-m", "benchmarks.run_latency.slips"]
    slips = await asyncio.create_subprocess_exec(*command, env={**os.environ, **of_worker})
    try:
        for service in services:
            await asyncio.to_thread(service.wait_ready, 120)
        async with connect_redis(redis.url) as admin:
            client = await Client.connect(temporal.address, data_converter=converter)
            pids = [slips.pid, *(service.pid for service in services if service.pid is not None)]
            yield Fleet(client, database, admin, pids)
    finally:
        for service in services:
            service.stop()
        slips.kill()
        await slips.wait()


async def slip_ms(client: Client, hops: int, runs: int) -> float:
    """The median of so many slips, one at a time."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        workflow_id = f"bench-{secrets.token_hex(6)}"
        await client.execute_workflow(DelegateSlip.run, hops, id=workflow_id, task_queue=QUEUE)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def calls(fleet: Fleet) -> Counter[str]:
    """How often each statement and each command of Redis was called so far."""
    connection = await asyncpg.connect(fleet.database.superuser_dsn)
    try:
        rows = await connection.fetch(_CALLS)
    finally:
        await connection.close()
    counted: Counter[str] = Counter()
    for row in rows:
        found = _NAME.search(row["query"])
        counted[f"SQL {found[1]}" if found else f"SQL {' '.join(row['query'].split()[:2])}"] += row["calls"]
    for command, stats in (await fleet.redis.info("commandstats")).items():
        counted[f"Redis {command.removeprefix('cmdstat_')}"] += stats["calls"]
    return counted


async def calls_per_hop(fleet: Fleet, runs: int, hops: int) -> dict[str, float]:
    """What one more hop calls, without what a slip of one hop does."""
    taken = []
    for length in (1, hops):
        before = await calls(fleet)
        await slip_ms(fleet.client, length, runs)
        taken.append(await calls(fleet) - before)
    one, many = taken
    per_hop = {name: (many[name] - one[name]) / runs / (hops - 1) for name in many}
    return {name: count for name, count in sorted(per_hop.items()) if count >= _OFTEN}


async def measure(clients: dict[str, Client], rounds: int, runs: int, hops: int) -> dict[str, list[float]]:
    """Per version and round, what a hop costs."""
    costs: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, client in clients.items():
            one = await slip_ms(client, 1, runs)
            cost = (await slip_ms(client, hops, runs) - one) / (hops - 1)
            if number:  # the first round warms up
                costs[name].append(cost)
    return costs


def report(costs: dict[str, list[float]]) -> None:
    """Medians over the rounds, with their spread, and the difference round by round."""
    print(f"{'one more hop of a slip':<24}{'ms':>8}{'rounds':>18}")
    for name, values in costs.items():
        print(f"{name:<24}{statistics.median(values):>8.2f}{f'{min(values):.2f}-{max(values):.2f}':>18}")
    if len(costs) > 1:
        former, today = costs.values()
        added = [b - a for a, b in zip(former, today, strict=True)]
        spread = f"{min(added):+.2f} to {max(added):+.2f}"
        print(f"\ntoday adds {statistics.median(added):+.2f} ms per hop ({spread}; reach +2)")


async def main(against: str, rounds: int, runs: int, hops: int) -> None:
    async with AsyncExitStack() as exits:
        versions = [exits.enter_context(worktree(against))] if against else []
        versions.append(Version("today"))
        stack = exits.enter_context(stack_for_tests())
        postgres = stack.extra_postgres(settings={"shared_preload_libraries": "pg_stat_statements"})
        server = postgres.dsn("postgres")
        fleets = {}
        for version in versions:
            database = await exits.enter_async_context(database_of(version, server))
            await _execute(database.superuser_dsn, "CREATE EXTENSION pg_stat_statements")
            fleets[version.name] = await exits.enter_async_context(fleet(stack, version, database))
        clients = {name: one.client for name, one in fleets.items()}
        report(await measure(clients, rounds, runs, hops))
        for name, one in fleets.items():
            found = await calls_per_hop(one, runs, hops)
            print(f"\n{name}: one more hop takes")
            for what, count in found.items():
                print(f"  {what:<40}{count:>6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=BEFORE_TRUST)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--hops", type=int, default=9)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.against, arguments.rounds, arguments.runs, arguments.hops))
