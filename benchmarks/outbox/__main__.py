"""Prints the outbox figures: drain rate, CPU per event, commit to consumer, each against its peers.

    python -m benchmarks.outbox [--rounds 3] [--events 100000] [--seconds 5] [--warm-up 300000]
                               [--broker-warm-up 1000000] [--peers naive debezium]

The peers take turns in each round, on one PostgreSQL and one Kafka; who is not in turn is paused. Ratios are steadier
than the figures. Debezium is left out, with a message, where it can't run. Before anybody counts the broker gets a
million records: until its own compiler is done it takes four times the CPU for each.

"postgresql alone" is the relay's work on the database and nothing else: its own two statements on a table of the same
rows (same columns out, same pages of 5,000, same client in this process), each page read, decoded, deleted by id and
thrown away. What is missing is Kafka, the lanes' turns, and where reads may begin.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.outbox.load import Arrivals, arrivals, clear, fill, timed
from benchmarks.outbox.peers import Peer, Place, debezium, flotilla_relay, naive_relay
from flotilla_devstack import RunningStack, stack_for_tests
from flotilla_devstack.errors import DevstackError
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from outbox_relay.read_starts import ReadPosition
from outbox_relay.rows import delete_published_rows, open_relay_pool, read_outbox_page
from tests.support.postgres import Database, make_template, with_database
from tests.support.session_events import topics_named

TURN_TIMEOUT_S = 300.0


@dataclass
class Figures:
    """One peer's figures, one entry per round."""

    rate: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


def progress(what: str) -> None:
    """Notifies the waiting caller."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


async def turn(peer: Peer, arrived: Arrivals, figures: Figures, seconds: float) -> None:
    """One peer's turn: catch up, drain, then a paced stream."""
    progress(f"{peer.name}'s turn")
    dsn = peer.place.database.superuser_dsn
    peer.resume()
    await drain(peer, arrived, min(peer.warm_up, 2000))
    cpu_s = peer.cpu_s()
    taken_s = await drain(peer, arrived, peer.events)
    figures.rate.append(peer.events / taken_s)
    figures.cpu_us.append((peer.cpu_s() - cpu_s) / peer.events * 1e6)
    if peer.name != "naive":
        await clear(dsn)
    delays = await arrived.delays_ms(dsn, rate=100 if peer.name == "naive" else 500, seconds=seconds)
    figures.p50_ms.append(delays[len(delays) // 2])
    figures.p99_ms.append(delays[int(len(delays) * 0.99)])
    peer.pause()


async def drain(peer: Peer, arrived: Arrivals, events: int) -> float:
    """Seconds from the commit of `events` to their arrival."""
    wanted = await arrived.count() + events
    await fill(peer.place.database.superuser_dsn, events)
    return await timed(lambda: arrived.until(wanted, TURN_TIMEOUT_S))


async def postgres_alone(dsn: str, events: int) -> float:
    """Events per second read and deleted in pages, and sent nowhere: the bound of any relay of this kind."""
    await fill(dsn, events)
    async with open_relay_pool(dsn) as pool, pool.acquire() as connection:
        began = time.perf_counter()
        left = events
        while left:
            page = await read_outbox_page(connection, range(12), ReadPosition(), max_rows=5000, max_bytes=8_000_000)
            await delete_published_rows(connection, [row_id for rows in page.lanes for row_id in rows.ids])
            left -= page.rows
        return events / (time.perf_counter() - began)


@asynccontextmanager
async def old_snapshot(dsn: str) -> AsyncIterator[None]:
    """A snapshot that keeps PostgreSQL from removing what is deleted meanwhile."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetchval("SELECT count(*) FROM flotilla.event_outbox")
    yield
    await connection.close()


async def make_place(postgres: PostgresServer, kafka: KafkaServer, name: str, folder: Path) -> Place:
    """A database, topics and a folder of one peer's own."""
    await make_template(postgres.dsn(), name)
    (folder / name).mkdir()
    database = Database(with_database(postgres.dsn(), name))
    return Place(database, await topics_named(kafka.bootstrap_address, f"{name}-events"), folder / name)


async def make_peers(
    arguments: argparse.Namespace, postgres: PostgresServer, kafka: KafkaServer, folder: Path
) -> list[Peer]:
    """Everyone who can take part."""
    places = {name: await make_place(postgres, kafka, name, folder) for name in ("flotilla", *arguments.peers)}
    peers = [flotilla_relay(places["flotilla"], arguments.events, arguments.broker_warm_up)]
    if "naive" in places:
        peers.append(naive_relay(places["naive"], 300))
    if "debezium" not in places:
        return peers
    try:
        peers.append(debezium(places["debezium"], arguments.events, arguments.warm_up))
    except DevstackError as reason:
        print(f"debezium: skipped, it can't run here: {reason}")
    return peers


async def warm(peer: Peer, arrived: Arrivals) -> None:
    """Starts a peer and lets it do some work before it counts."""
    progress(f"warming up {peer.name} with {peer.warm_up} events")
    peer.start()
    dsn = peer.place.database.superuser_dsn
    if peer.name == "debezium":
        await until_replicating(dsn)
    for _ in range(max(1, peer.warm_up // 50_000)):
        await drain(peer, arrived, min(peer.warm_up, 50_000))
        if peer.name == "debezium":
            await clear(dsn)
    peer.pause()


async def until_replicating(dsn: str) -> None:
    """Debezium sees only what is written once its slot is in use."""
    connection = await asyncpg.connect(dsn)
    async with asyncio.timeout(120):
        while not await connection.fetchval("SELECT bool_or(active) FROM pg_replication_slots"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await connection.close()


async def idle_cpu_percent(peer: Peer, seconds: float) -> float:
    """What the relay costs while nothing comes."""
    peer.resume()
    await asyncio.sleep(2)
    before = peer.cpu_s()
    await asyncio.sleep(seconds)
    share = (peer.cpu_s() - before) / seconds * 100
    peer.pause()
    return share


def show(name: str, values: Sequence[float], unit: str) -> str:
    """Median and spread."""
    return f"{name} {statistics.median(values):,.1f} {unit} [{min(values):,.1f} to {max(values):,.1f}]"


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Round by round, so that what the machine does meanwhile falls out."""
    return show(name, [mine / other for mine, other in zip(ours, theirs, strict=True)], "x")


def report(figures: dict[str, Figures], bound: Sequence[float]) -> None:
    """All figures and ratios."""
    ours = figures["flotilla"]
    for name, found in figures.items():
        print(f"{name}:", show("drain", found.rate, "/s"), "|", show("CPU", found.cpu_us, "us/event"))
        print(f"{name}:", show("commit to consumer p50", found.p50_ms, "ms"), "|", show("p99", found.p99_ms, "ms"))
    print("postgresql alone:", show("drain", bound, "/s"), "|", ratio("flotilla is", ours.rate, bound))
    for name, peer in figures.items():
        if name != "flotilla":
            print(f"against {name}:", ratio("rate", ours.rate, peer.rate), "|", ratio("CPU", ours.cpu_us, peer.cpu_us))
            print(
                f"against {name}:", ratio("p50", ours.p50_ms, peer.p50_ms), "|", ratio("p99", ours.p99_ms, peer.p99_ms)
            )


async def compare(arguments: argparse.Namespace, stack: RunningStack) -> None:
    """Runs everything."""
    postgres, kafka = stack.extra_postgres(), stack.extra_kafka()
    peers = await make_peers(arguments, postgres, kafka, stack.scratch_folder())
    await make_template(postgres.dsn(), "alone")
    figures = {peer.name: Figures() for peer in peers}
    bound: list[float] = []
    async with AsyncExitStack() as opened:
        arrived = {peer.name: await opened.enter_async_context(arrivals(peer.place.kafka)) for peer in peers}
        for peer in peers:
            await warm(peer, arrived[peer.name])
            opened.callback(peer.stop)
        for _ in range(arguments.rounds):
            bound.append(await postgres_alone(with_database(postgres.dsn(), "alone"), arguments.events))
            for peer in peers:
                await turn(peer, arrived[peer.name], figures[peer.name], arguments.seconds)
        report(figures, bound)
        relay = peers[0]
        held = Figures()
        async with old_snapshot(relay.place.database.superuser_dsn):
            for _ in range(arguments.rounds):
                relay.resume()
                held.rate.append(relay.events / await drain(relay, arrived["flotilla"], relay.events))
                relay.pause()
        print(
            "flotilla, old snapshot held:",
            show("drain", held.rate, "/s"),
            "|",
            ratio("rate", held.rate, figures["flotilla"].rate),
        )
        print(f"flotilla, idle: {await idle_cpu_percent(relay, 5):.1f}% CPU, {relay.memory_mb():.0f} MB")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=int, default=300_000)
    parser.add_argument("--broker-warm-up", type=int, default=1_000_000)
    parser.add_argument("--peers", nargs="*", choices=["naive", "debezium"], default=["naive", "debezium"])
    arguments = parser.parse_args()
    with stack_for_tests() as stack:
        asyncio.run(compare(arguments, stack))


if __name__ == "__main__":
    main()
