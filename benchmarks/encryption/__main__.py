"""Prints what encryption costs: encrypted against clear, measured in turns on one machine and one PostgreSQL.

    python -m benchmarks.encryption [--only outbox projection replay delegation] [--rounds 15] [--events 400]
        [--runs 10] [--hops 5]

outbox: appends, a transaction each. projection: their bodies into the projection, in one batch. replay: a long
session's state, folded from its events. delegation: one more hop of a routing slip (benchmarks.run_latency.hops), with
worker and agent as processes. "processor" is what replay, and the fleet's processes, use: steady on a busy machine,
too. Each round measures both, so that what slows the
machine slows both; the ratio is taken round by round.
"""

import argparse
import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from temporalio.converter import DataConverter

from audit_consumer.connections import LIVE, open_projection_pool
from benchmarks.run_latency.hops import Fleet, Version, database_of, fleet, slip_ms
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption import KeyFile, Keyring, create_key_file
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool, open_pool
from flotilla.postgres.workflow_ciphers import WorkflowCiphers
from flotilla.temporal import encrypting_converter
from flotilla_devstack import RunningStack, stack_for_tests
from flotilla_devstack.ports import free_port
from tests.support.audit import Projected, outbox_bodies, project_directly, records_of
from tests.support.postgres import Database

WORDS = "The harbour master inspects every mooring line at Northquay once a month, and writes down what he finds. " * 4
STORES = ("outbox", "projection", "replay")
DELEGATION = "delegation"
Measure: TypeAlias = Callable[[], Awaitable[float]]
"""One measurement; more is better."""


@dataclass(frozen=True)
class Encrypting(Version):
    """Today's version with a root key at the worker, of which the agent asks for keys of sessions."""

    key_file: Path = Path()
    keys_port: int = field(default_factory=free_port)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FLOTILLA_ENCRYPTION": "on",
            "FLOTILLA_ENCRYPTION_KEY_FILE": str(self.key_file),
            "FLOTILLA_HTTP_PORT": str(self.keys_port),
            "FLOTILLA_SESSION_KEYS_URL": f"http://127.0.0.1:{self.keys_port}",
        }


def said(number: int) -> AgentStateEvent:
    """An event of about 450 bytes of text."""
    return AgentStateEvent(kind="message", data={"role": "user", "content": f"{number}: {WORDS}"}, source="/bench")


class Stores:
    """Outbox, projection and replay of one database."""

    def __init__(self, pool: Pool, audit: Pool, database: Database, events: int) -> None:
        self._pool = pool
        self._audit = audit
        self._database = database
        self._events = events
        self._store = AgentEventStore(pool)
        self.replay_cpu_us: list[float] = []
        """Of this process, for an event of each replay."""

    async def begin(self) -> None:
        """A session for the replay."""
        await self._store.ensure_session("long", "ada")
        await self._store.append("long", [said(number) for number in range(self._events)])

    async def outbox_rate(self) -> float:
        """Events per second, appended one a transaction."""
        session = secrets.token_hex(8)
        await self._store.ensure_session(session, "ada")
        started = time.perf_counter()
        for number in range(self._events):
            await self._store.append(session, [said(number)])
        return self._events / (time.perf_counter() - started)

    async def projection_rate(self) -> float:
        """Events per second, projected in one batch."""
        session = secrets.token_hex(8)
        await self._store.ensure_session(session, "ada")
        await self._store.append(session, [said(number) for number in range(self._events)])
        bodies = [one for one in await outbox_bodies(self._database) if one[1] == session]
        await Projected(self._database).execute("DELETE FROM audit.consumer_offsets")
        started = time.perf_counter()
        await project_directly(self._audit, records_of(bodies))
        return self._events / (time.perf_counter() - started)

    async def replay_rate(self) -> float:
        """Events per second of a session whose state is folded from its beginning."""
        started, cpu_s = time.perf_counter(), time.process_time()
        await self._store.state_at("long")
        self.replay_cpu_us.append((time.process_time() - cpu_s) / self._events * 1e6)
        return self._events / (time.perf_counter() - started)


@asynccontextmanager
async def stores(database: Database, keyring: Keyring | None, events: int) -> AsyncIterator[Stores]:
    """The stores of one database, encrypted if there is a keyring."""
    async with (
        open_pool(database.dsn(), application="bench", keyring=keyring) as pool,
        open_projection_pool(database.dsn("flotilla_audit"), LIVE, application="bench") as audit,
    ):
        made = Stores(pool, audit, database, events)
        await made.begin()
        yield made


async def in_turns(clear: Measure, encrypted: Measure, rounds: int) -> tuple[list[float], list[float]]:
    """Both, round by round; the first round warms up, and who is first changes each time."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        order = ((0, clear), (1, encrypted)) if number % 2 else ((1, encrypted), (0, clear))
        for place, measure in order:
            value = await measure()
            if number:
                found[place].append(value)
    return found


def report(name: str, unit: str, clear: list[float], encrypted: list[float]) -> None:
    """Medians, and the ratio round by round with its spread."""
    ratios = sorted(b / a for a, b in zip(clear, encrypted, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    print(
        f"{name:<12}{statistics.median(clear):>10.1f}{statistics.median(encrypted):>12.1f} {unit:<10}"
        f"{statistics.median(ratios):>8.3f}   {low:.3f} to {high:.3f} (half of the rounds), {ratios[0]:.3f} to "
        f"{ratios[-1]:.3f} (all)"
    )


@dataclass(frozen=True)
class Hop:
    """One more hop of a slip, in a fleet: milliseconds on the clock, and of its processes."""

    fleet: Fleet
    runs: int
    hops: int
    cpu_ms: list[float] = field(default_factory=list)
    """Of each measurement, per hop."""

    async def cost(self) -> float:
        """Milliseconds on the clock."""
        short, short_cpu = await self._slips(1)
        long, long_cpu = await self._slips(self.hops)
        self.cpu_ms.append((long_cpu - short_cpu) / self.runs / (self.hops - 1))
        return (long - short) / (self.hops - 1)

    async def _slips(self, hops: int) -> tuple[float, float]:
        before = self.fleet.cpu_ms()
        median = await slip_ms(self.fleet.client, hops, self.runs)
        return median, self.fleet.cpu_ms() - before


async def measure_delegation(
    stack: RunningStack, server: str, encrypting: Encrypting, *, rounds: int, runs: int, hops: int
) -> None:
    """Print what one more hop takes, clear and encrypted."""
    async with AsyncExitStack() as exits:
        measured = []
        for version in (Version("clear"), encrypting):
            database = await exits.enter_async_context(database_of(version, server))
            converter = DataConverter.default
            if version is encrypting:
                keyring = Keyring(KeyFile(encrypting.key_file), writes=True)
                pool = await exits.enter_async_context(open_pool(database.dsn("flotilla_worker"), application="bench"))
                converter = encrypting_converter(WorkflowCiphers(pool, keyring))
            found = await exits.enter_async_context(fleet(stack, version, database, converter))
            measured.append(Hop(found, runs, hops))
        clear, encrypted = measured
        report("delegation", "ms", *await in_turns(clear.cost, encrypted.cost, rounds))
        report("processor", "ms", clear.cpu_ms[1:], encrypted.cpu_ms[1:])


async def measure_stores(server: str, key_file: Path, names: list[str], *, rounds: int, events: int) -> None:
    """Print the rates of these stores, clear and encrypted."""
    async with AsyncExitStack() as exits:
        both = []
        for keyring in (None, Keyring(KeyFile(key_file), writes=True)):
            database = await exits.enter_async_context(database_of(Version("today"), server))
            both.append(await exits.enter_async_context(stores(database, keyring, events)))
        for name in names:
            clear, encrypted = (getattr(one, f"{name}_rate") for one in both)
            report(name, "events/s", *await in_turns(clear, encrypted, rounds))
        if "replay" in names:
            report("processor", "us/event", *(one.replay_cpu_us[1:] for one in both))


async def main(only: list[str], rounds: int, events: int, runs: int, hops: int) -> None:
    """Measure and print."""
    with stack_for_tests() as stack:
        server = stack.extra_postgres().dsn("postgres")
        key_file = stack.scratch_folder() / "root.keys"
        create_key_file(key_file)
        print(f"{'':<12}{'clear':>10}{'encrypted':>12} {'':<10}{'ratio':>8}")
        if names := [name for name in STORES if name in only]:
            await measure_stores(server, key_file, names, rounds=rounds, events=events)
        if DELEGATION in only:
            encrypting = Encrypting("encrypted", key_file=key_file)
            await measure_delegation(stack, server, encrypting, rounds=rounds, runs=runs, hops=hops)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*STORES, DELEGATION]
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--hops", type=int, default=5)
    given = parser.parse_args()
    asyncio.run(main(given.only, given.rounds, given.events, given.runs, given.hops))
