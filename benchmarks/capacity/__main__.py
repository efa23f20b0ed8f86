"""Prints what a fleet stores of each event, what that is at any size, and how many cells tenants take.

    python -m benchmarks.capacity [--runs 300] [--events 1e9] [--cell-runs-per-s 10] [--tenants 1000] [--encrypted]

A local stack answers questions, five in a session, and every store is looked at before and after: bytes, not times, so
that the figures hardly depend on the machine. The rest is arithmetic on them.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import httpx

from benchmarks.capacity.model import DAY_S, GB, Cell, Measured, plan, tenant_rates
from flotilla.encryption.roots import create_key_file
from flotilla_devstack import Stack
from flotilla_devstack.folders import StateDir
from tests.e2e.fleet import Fleet, finished, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.waiting import eventually

QUESTION = "Who inspects the mooring lines at Northquay?"
RUNS_OF_A_SESSION = 5
EVENTS_TABLE = "projection: events"
KAFKA = "Kafka: events"
REPLICAS = {KAFKA: 3, "Kafka: checkpoints": 3}
"""How many copies the production values keep; PostgreSQL and Temporal's database have a standby: two."""
_SIZES = """
SELECT format('%s.%s', n.nspname, c.relname) AS name, pg_table_size(c.oid) AS rows, pg_indexes_size(c.oid) AS indexes
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('flotilla', 'flotilla_ops', 'audit') AND c.relkind = 'r'
"""
_SETTLED = """
SELECT NOT EXISTS (SELECT FROM flotilla.event_outbox)
    AND NOT EXISTS (SELECT FROM flotilla.sessions AS s LEFT JOIN audit.session_heads AS h USING (tenant_id, session_id)
                    WHERE s.head_seq > 0 AND s.head_seq IS DISTINCT FROM h.seq)
    AND NOT EXISTS (SELECT FROM audit.session_heads WHERE dirty)
"""


async def sizes(fleet: Fleet, connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, int]:
    """Bytes of each store, once nothing is on its way."""
    await eventually(lambda: connection.fetchval(_SETTLED), 120)
    found: dict[str, int] = {}

    def add(store: str, size: int) -> None:
        found[store] = found.get(store, 0) + size

    for table in await connection.fetch(_SIZES):
        if table["name"] == "audit.session_events":
            add(EVENTS_TABLE, table["rows"])
            add("projection: their indexes", table["indexes"])
        elif table["name"].startswith(("audit.checkpoint", "audit.log_")):
            add("checkpoints and trees", table["rows"] + table["indexes"])
        elif table["name"].startswith("audit."):
            add("projection: heads, snapshots, usage", table["rows"] + table["indexes"])
        elif table["name"] != "flotilla.event_outbox":
            add("state: runs, tasks, answers", table["rows"] + table["indexes"])
    state = StateDir(fleet.home)
    for folder in (state.root / "kafka").rglob("flotilla.*"):
        store = KAFKA if folder.name.startswith("flotilla.session-events") else "Kafka: checkpoints"
        for segment in folder.glob("*.log"):
            add(store, segment.stat().st_size)
    add("Temporal: histories", state.temporal_file.stat().st_size)
    return found


async def ask(client: httpx.AsyncClient, sessions: Sequence[str]) -> None:
    """Five questions in each session, eight sessions at a time."""
    turns = asyncio.Semaphore(8)

    async def one(session: str) -> None:
        async with turns:
            for number in range(RUNS_OF_A_SESSION):
                run = await finished(client, await start_run(client, session, QUESTION, f"{session}-{number}"))
                assert run["status"] == "success", run

    await asyncio.gather(*(one(session) for session in sessions))


async def measure(fleet: Fleet, runs: int) -> Measured:
    """Answer `runs` questions, after some that fill the first pages."""
    count = max(1, runs // RUNS_OF_A_SESSION)
    with Stack.attach(fleet.home) as stack:
        connection = await asyncpg.connect(stack.environment(user="postgres")["FLOTILLA_POSTGRES_DSN"])
    total = "SELECT count(*) FROM audit.session_events"
    async with fleet.client() as client:
        await upload(client, "harbour.md", HANDBOOK)
        await ask(client, [f"warm-{number}" for number in range(4)])
        before, events_before = await sizes(fleet, connection), await connection.fetchval(total)
        await ask(client, [f"capacity-{number}" for number in range(count)])
        after, events_after = await sizes(fleet, connection), await connection.fetchval(total)
    await connection.close()
    grown = {store: after[store] - before.get(store, 0) for store in after}
    return Measured(count * RUNS_OF_A_SESSION, events_after - events_before, grown)


def print_stores(measured: Measured, events: float, price: float) -> None:
    """Bytes of an event in each store, and what they are and cost after `events`."""
    print(f"{measured.runs} runs, {measured.events} events: {measured.events_per_run:.1f} events per run\n")
    print(f"| store | bytes per event | bytes per run | copies | at {events:.0e} events | a month |")
    print("|---|---|---|---|---|---|")
    whole = 0.0
    for store in sorted(measured.stored_bytes, key=lambda one: -measured.stored_bytes[one]):
        copies = REPLICAS.get(store, 2)
        size = measured.bytes_at(store, events, copies) / GB
        whole += size
        per_event, per_run = measured.bytes_per_event(store), measured.stored_bytes[store] / measured.runs
        print(f"| {store} | {per_event:,.0f} | {per_run:,.0f} | {copies} | {size:,.0f} GB | {size * price:,.0f} |")
    print(f"| all | | | | {whole:,.0f} GB | {whole * price:,.0f} |\n")


def print_cells(measured: Measured, cell: Cell, tenants: int, events: float) -> None:
    """How many cells tenants take, and what moves as they grow."""
    a_day = cell.room * measured.events_per_run * DAY_S
    print(f"a cell of {cell.runs_per_s:g} runs/s, planned to {cell.fill:.0%}: {a_day:,.0f} events a day, ")
    print(f"{events:.0e} events in {events / a_day:,.1f} days at its busiest\n")
    print("| tenants | runs/s in all | largest tenant | cells | fullest | moves in 12 months of 5% |")
    print("|---|---|---|---|---|---|")
    for factor in (1, 10, 100):
        total = cell.room * factor
        now = plan(tenant_rates(tenants, total, skew=0.8), cell)
        later = plan(tenant_rates(tenants, total, skew=0.8), cell, months=12, growth=0.05)
        print(
            f"| {tenants:,} | {total:,.0f} | {now.largest:.2f} of a cell | {now.cells} | {now.fullest:.0%} | "
            f"{later.moves}, then {later.cells} cells |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--events", type=float, default=1e9)
    parser.add_argument("--cell-runs-per-s", type=float, default=10.0, help="what a fleet was seen to carry")
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--price", type=float, default=0.1, help="of a GB and month, in your currency")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--json", type=Path, help="also write what was measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flotilla-capacity-") as folder:
        fleet = Fleet(Path(folder) / "fleet", env=_encryption(Path(folder)) if given.encrypted else {})
        fleet.up()
        try:
            measured = asyncio.run(measure(fleet, given.runs))
        finally:
            fleet.down()
    if given.json:
        given.json.write_text(json.dumps({"runs": measured.runs, "events": measured.events, **measured.stored_bytes}))
    print_stores(measured, given.events, given.price)
    print_cells(measured, Cell(given.cell_runs_per_s), given.tenants, given.events)


def _encryption(folder: Path) -> dict[str, str]:
    file = folder / "root.keys"
    create_key_file(file)
    return {"FLOTILLA_ENCRYPTION": "on", "FLOTILLA_ENCRYPTION_KEY_FILE": str(file)}


if __name__ == "__main__":
    main()
