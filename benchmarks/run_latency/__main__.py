"""Prints the figures of delegation and of `RagAgentWorkflow`.

    python -m benchmarks.run_latency [--rounds 5] [--runs 10]

Every round measures all peers one after the other on the same servers, so that their ratios are steadier than the
milliseconds. A stack that is up (FLOTILLA_TEST_STACK) is used, else one is started.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client

from benchmarks.run_latency.peers import QUEUE, TENANT, BareOne, BareThree, DelegateOne, DelegateTwo
from benchmarks.run_latency.where import report_stretches, stretches_of
from flotilla.config.signing import create_key_pair
from flotilla.contracts.names import RAG_WORKFLOW, TASK_QUEUE, run_workflow_id
from flotilla.contracts.requests import RAGRequest, RAGResponse
from flotilla.knowledge import KnowledgeBase
from flotilla.knowledge.documents import UploadedDocument
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla_devstack import RunningStack, ServiceProcess, stack_for_tests
from tests.support.postgres import Database, drop, make_template, with_database

SESSION = "bench"
CONCURRENT = 10
PAGES = {
    "moorings.md": "# Moorings\n\nEvery mooring line is inspected on the first Monday by the harbour master.\n",
    "fuel.md": "# Fuel\n\nDiesel is sold at pontoon C between seven and nineteen o'clock.\n",
    "fees.md": "# Fees\n\nA berth costs two euros per metre and night, paid to the harbour master.\n",
}
QUESTION = "Who inspects the mooring lines?"


@dataclass(frozen=True)
class Peer:
    """One thing to measure, once."""

    name: str
    once: Callable[[], Awaitable[object]]


async def measure(peers: list[Peer], rounds: int, runs: int) -> dict[str, list[list[float]]]:
    """Per peer and round the seconds of each run, one at a time."""
    taken: dict[str, list[list[float]]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            times = []
            for _ in range(runs):
                started = time.perf_counter()
                await peer.once()
                times.append(time.perf_counter() - started)
            taken[peer.name].append(times)
    return taken


async def rate(peer: Peer, runs: int) -> float:
    """Runs per second with ten at a time."""
    turns = asyncio.Semaphore(CONCURRENT)

    async def one() -> None:
        async with turns:
            await peer.once()

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(runs)))
    return runs / (time.perf_counter() - started)


def peers_of(client: Client) -> list[Peer]:
    """All peers, the bare ones first."""

    def bare(workflow: type[BareOne] | type[BareThree]) -> Callable[[], Awaitable[object]]:
        return lambda: client.execute_workflow(workflow.run, "x", id=f"bench-{secrets.token_hex(6)}", task_queue=QUEUE)

    def delegated() -> Awaitable[object]:
        return client.execute_workflow(DelegateOne.run, SESSION, id=f"bench-{secrets.token_hex(6)}", task_queue=QUEUE)

    def slip() -> Awaitable[object]:
        return client.execute_workflow(DelegateTwo.run, SESSION, id=f"bench-{secrets.token_hex(6)}", task_queue=QUEUE)

    def asked() -> Awaitable[object]:
        run_id = f"bench-{secrets.token_hex(6)}"
        request = RAGRequest(query=QUESTION, user_id="bench", session_id=run_id, tenant_id=TENANT, run_id=run_id)
        return client.execute_workflow(
            RAG_WORKFLOW, request, id=run_workflow_id(run_id), task_queue=TASK_QUEUE, result_type=RAGResponse
        )

    return [
        Peer("one bare activity", bare(BareOne)),
        Peer("one delegated step", delegated),
        Peer("a slip of two agents", slip),
        Peer("three bare activities", bare(BareThree)),
        Peer("RagAgentWorkflow", asked),
    ]


def report(taken: dict[str, list[list[float]]], rates: dict[str, list[float]]) -> None:
    """Medians over the rounds, with their spread."""
    print(f"{'one at a time':<24}{'p50 ms':>9}{'rounds':>18}{'p95 ms':>9}")
    p50 = {name: [statistics.median(times) * 1000 for times in by_round] for name, by_round in taken.items()}
    for name, by_round in taken.items():
        every = sorted(value * 1000 for times in by_round for value in times)
        spread = f"{min(p50[name]):.1f}-{max(p50[name]):.1f}"
        print(f"{name:<24}{statistics.median(p50[name]):>9.1f}{spread:>18}{every[int(len(every) * 0.95)]:>9.1f}")
    added = [b - a for a, b in zip(p50["one bare activity"], p50["one delegated step"], strict=True)]
    print(
        f"\ndelegation adds {statistics.median(added):+.1f} ms at p50"
        f" ({min(added):+.1f} to {max(added):+.1f}; reach +5)"
    )
    hop = [b - a for a, b in zip(p50["one delegated step"], p50["a slip of two agents"], strict=True)]
    print(f"one more hop of a slip adds {statistics.median(hop):+.1f} ms at p50 ({min(hop):+.1f} to {max(hop):+.1f})")
    print(f"RagAgentWorkflow p50 {statistics.median(p50['RagAgentWorkflow']):.1f} ms (reach 150)")
    print(f"\n{'ten at a time':<24}{'per second':>11}{'rounds':>18}")
    for name, values in rates.items():
        print(f"{name:<24}{statistics.median(values):>11.1f}{f'{min(values):.1f}-{max(values):.1f}':>18}")
    ratios = [b / a for a, b in zip(rates["three bare activities"], rates["RagAgentWorkflow"], strict=True)]
    print(f"\nRagAgentWorkflow at {statistics.median(ratios):.2f} of the bare rate")
    print(f"  ({min(ratios):.2f} to {max(ratios):.2f}; reach 0.5)")


async def look_where(client: Client, server: Pool, runs: int) -> None:
    """Stretch by stretch what a delegated step takes."""
    taken = []
    for _ in range(runs):
        workflow_id = f"bench-{secrets.token_hex(6)}"
        await client.execute_workflow(DelegateOne.run, SESSION, id=workflow_id, task_queue=QUEUE)
        taken.append(await stretches_of(client, server, workflow_id))
    report_stretches(taken)


@asynccontextmanager
async def fleet(stack: RunningStack, database: Database) -> AsyncIterator[Client]:
    """Worker, agents and the peers' worker as processes, on a Redis and a Temporal of their own."""
    key = stack.scratch_folder() / "tickets.pem"
    create_key_pair(key, key.with_suffix(".pub"))
    redis, temporal = stack.extra_redis(), stack.extra_temporal()
    addresses = {
        "FLOTILLA_REDIS_URL": redis.url,
        "FLOTILLA_TEMPORAL_ADDRESS": temporal.address,
        "FLOTILLA_LOG_LEVEL": "warning",
        "OPENAI_API_KEY": "",
        "FLOTILLA_TICKET_KEY_FILE": str(key),
        "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(key.with_suffix(".pub")),
    }
    agent = (sys.executable, "-m", "benchmarks.run_latency.echo_agent")
    of_worker = {**addresses, "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_worker")}
    of_agents = {**addresses, "FLOTILLA_POSTGRES_DSN": database.dsn("flotilla_agent")}
    processes: list[ServiceProcess] = [
        stack.service("workflow-worker", env=of_worker),
        stack.service("research-agent", env=of_agents),
        stack.service("writer-agent", env=of_agents),
        stack.service("research-agent", env=of_agents, argv=agent),
    ]
    for process in processes:
        process.start()
    peers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.run_latency.peers", env={**os.environ, **of_worker}
    )
    try:
        for process in processes:
            await asyncio.to_thread(process.wait_ready, 60)
        yield await Client.connect(temporal.address)
    finally:
        peers.kill()
        await peers.wait()


async def prepare(pool: Pool) -> None:
    """A session for the delegated steps, and something to find."""
    async with tenant_transaction(pool, TENANT) as connection:
        await connection.execute(
            "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'bench')", TENANT, SESSION
        )
    knowledge = KnowledgeBase(pool)
    for name, text in PAGES.items():
        await knowledge.add(TENANT, UploadedDocument(uri=name, content=text.encode()))


async def main(rounds: int, runs: int) -> None:
    with stack_for_tests() as stack:
        server = stack.postgres_dsn("postgres")
        name = f"flotilla_bench_{secrets.token_hex(4)}"
        await make_template(server, name)
        database = Database(with_database(server, name))
        try:
            async with open_pool(database.dsn(), application="bench") as pool:
                await prepare(pool)
            async with fleet(stack, database) as client:
                peers = peers_of(client)
                await measure(peers, 1, 5)  # warm
                taken = await measure(peers, rounds, runs)
                rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
                for _ in range(rounds):
                    for peer in peers:
                        rates[peer.name].append(await rate(peer, 4 * runs))
                report(taken, rates)
                async with open_pool(database.superuser_dsn, application="bench") as server_pool:
                    await look_where(client, server_pool, 2 * runs)
        finally:
            await drop(server, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.runs))
