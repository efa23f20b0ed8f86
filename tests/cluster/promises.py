"""Load on a fleet, and what must hold of it afterwards."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.cluster.fleet import RELEASE, REPOSITORY, TAG, Fleet
from tests.support.waiting import eventually

RATE = float(os.environ.get("CLUSTER_RATE", "2"))
"""Runs per second. Two cores carry a few, with servers, fleet and cluster on them."""
_STATUSES = "SELECT status, count(*) FROM flotilla.runs WHERE session_id LIKE $1 || '-%' GROUP BY status"
_LAST = (
    "SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM flotilla.runs WHERE session_id LIKE $1 || '-%'"
)
_ANSWERS = """
SELECT count(*), count(DISTINCT run_id), count(DISTINCT session_id)
FROM flotilla.interactions WHERE session_id LIKE $1 || '-%'
"""
_CALLS = (
    "SELECT count(*), count(DISTINCT (task_id, request_hash)) FROM flotilla.llm_calls WHERE session_id LIKE $1 || '-%'"
)
_EFFECTS = """
SELECT task_id, action_type FROM flotilla.agent_actions
WHERE session_id LIKE $1 || '-%' AND action_type = 'task_done' GROUP BY task_id, action_type HAVING count(*) > 1
"""
_NOT_WHOLE = """
SELECT s.session_id, s.head_seq, count(e.seq) AS events, max(e.seq) AS last
FROM flotilla.sessions AS s LEFT JOIN audit.session_events AS e USING (tenant_id, session_id)
WHERE s.session_id LIKE $1 || '-%' GROUP BY s.session_id, s.head_seq
HAVING count(e.seq) <> s.head_seq OR max(e.seq) IS DISTINCT FROM s.head_seq
"""
_TWICE_IN_KAFKA = """
SELECT coalesce(sum(more), 0) FROM (
    SELECT max(kafka_offset) + 1 - count(*) AS more FROM audit.session_events GROUP BY kafka_partition
) AS partitions
"""
# The sequence counts tries that are rolled back, too. `AFTER`, since an upsert's `BEFORE` comes twice.
_SLOW = """
CREATE SEQUENCE IF NOT EXISTS flotilla.finishing;
ALTER SEQUENCE flotilla.finishing RESTART;
CREATE OR REPLACE FUNCTION flotilla.slow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
'BEGIN PERFORM nextval(''flotilla.finishing''); PERFORM pg_sleep({seconds}); RETURN NULL; END';
CREATE OR REPLACE TRIGGER slow AFTER INSERT OR UPDATE OF status ON flotilla.agent_tasks FOR EACH ROW
WHEN (NEW.status = 'done') EXECUTE FUNCTION flotilla.slow();
"""
_FINISHINGS = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM flotilla.finishing"


@asynccontextmanager
async def slow_tasks(fleet: Fleet, seconds: float) -> AsyncIterator[None]:
    """Each task takes so much longer, inside the transaction of its answer: agents have work in hand all the time."""
    async with fleet.database() as database:
        await database.execute(_SLOW.format(seconds=seconds))
    try:
        yield
    finally:
        async with fleet.database() as database:
            await database.execute("DROP TRIGGER slow ON flotilla.agent_tasks")


async def finishings(fleet: Fleet) -> int:
    """How often an agent finished a task since `slow_tasks` began, also where that was lost before the commit."""
    async with fleet.database() as database:
        return int(await database.fetchval(_FINISHINGS))


@dataclass(frozen=True)
class Load:
    """Runs at a steady rate for some time, by a pod that meets the gateway's Service as any other client."""

    fleet: Fleet
    batch: str
    seconds: float
    rate: float = RATE
    retry_s: float = 0

    @property
    def runs(self) -> int:
        return round(self.rate * self.seconds)

    async def start(self) -> None:
        """Returns when the first runs have been accepted."""
        self.fleet.namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(self._pod()))

        async with self.fleet.database() as database:
            await eventually(lambda: _some(database, self.batch), timeout_s=180, every_s=1)

    async def report(self) -> dict[str, Any]:
        """What the clients saw, when the last request is answered."""
        namespace, name = self.fleet.namespace, self.batch
        await eventually(lambda: self._phase() in ("Succeeded", "Failed"), timeout_s=self.seconds + 600, every_s=2)
        said: dict[str, Any] = json.loads(namespace.kubectl("logs", name).splitlines()[-1])
        namespace.kubectl("delete", "pod", name)
        return said

    def _phase(self) -> str:
        return self.fleet.namespace.kubectl("get", "pod", self.batch, "--output", "jsonpath={.status.phase}")

    def _pod(self) -> dict[str, Any]:
        script = (Path(__file__).parent / "load.py").read_text()
        arguments = [f"http://{RELEASE}-gateway", str(self.rate), str(self.seconds), self.batch]
        container = {
            "name": "load",
            "image": f"{REPOSITORY}/workflow-worker:{TAG}",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/app/bin/python", "-c", script, *arguments],
            "env": [
                {"name": "TOKEN", "value": self.fleet.key()},
                {"name": "RETRY_S", "value": str(self.retry_s)},
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "securityContext": context, "containers": [container]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.batch}, "spec": spec}


async def _some(database: "asyncpg.Connection[asyncpg.Record]", batch: str) -> bool:
    return bool(await database.fetch(_STATUSES, batch))


async def twice_in_kafka(fleet: Fleet) -> int:
    """Events that Kafka holds more than once, over all partitions that are projected to their end."""
    async with fleet.database() as database:
        return int(await database.fetchval(_TWICE_IN_KAFKA))


async def check(fleet: Fleet, batch: str, runs: int, within_s: float = 600) -> float:
    """The promises for the sessions `BATCH-…`, one run in each; returns the seconds they took.

    Every run ends well, with one answer, bought once; each task has one effect; events are contiguous and
    all projected; the chain verifies.
    """
    async with fleet.database() as database:

        async def statuses() -> dict[str, int]:
            return {row["status"]: row["count"] for row in await database.fetch(_STATUSES, batch)}

        async def over() -> bool:
            return not set(await statuses()) & {"pending", "running", "interrupted"}

        await eventually(over, timeout_s=within_s, every_s=2)
        assert await statuses() == {"success": runs}
        assert tuple(await database.fetchrow(_ANSWERS, batch) or ()) == (runs, runs, runs)
        calls, different = await database.fetchrow(_CALLS, batch) or (0, 0)
        assert calls == different
        took = float(await database.fetchval(_LAST, batch))
    await check_history(fleet, batch)
    return took


async def check_history(fleet: Fleet, batch: str) -> None:
    """For the sessions `BATCH-…`: each task done once, all events projected without a gap, a chain that verifies."""
    async with fleet.database() as database:
        assert await database.fetch(_EFFECTS, batch) == []

        async def whole() -> bool:
            return not await database.fetch(_NOT_WHOLE, batch)

        await eventually(whole, timeout_s=180, every_s=2)
    with fleet.reached() as reached:
        async with reached.client() as client:
            answer = await client.get("/v1/audit/verify")
            assert answer.status_code == 200, answer.text
            assert answer.json()["ok"], answer.text
