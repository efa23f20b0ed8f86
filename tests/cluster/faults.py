"""What goes wrong in a fleet, each undone when its block ends, and the work that goes on meanwhile."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import httpx

from flotilla.bus import connect_redis
from tests.cluster.approvals import approve, key_of, parked
from tests.cluster.fleet import RELEASE, Fleet, Reached, forwarded
from tests.cluster.kubernetes import Namespace
from tests.e2e.fleet import finished, start_run

QUESTION = "Who inspects the mooring lines at Northquay?"
ASKED_EVERY_S = 4
_REMIND = "UPDATE flotilla.approvals SET reminder_at = now() - interval '1 hour' WHERE approval_id = $1"
_TAKE = "DELETE FROM flotilla.event_outbox AS o USING taken WHERE o.id = taken.id"
_TAKEN = "CREATE TEMP TABLE taken AS SELECT * FROM flotilla.event_outbox WHERE session_id = '{}' ORDER BY seq LIMIT 1"
_PUT_BACK = "INSERT INTO flotilla.event_outbox OVERRIDING SYSTEM VALUE SELECT * FROM taken"


@asynccontextmanager
async def agent_away(fleet: Fleet) -> AsyncIterator[None]:
    """Nobody handles a stream that tasks come to."""
    async with scaled_to_none(fleet.namespace, f"{RELEASE}-writer-agent"):
        yield


@asynccontextmanager
async def dead_letter(fleet: Fleet) -> AsyncIterator[None]:
    """An entry that is not an event; discarded in the end."""
    password = fleet.namespace.secret("flotilla-demo-redis-users", "admin")
    with forwarded(fleet.namespace, "service/flotilla-demo-redis", 6379) as at:
        async with connect_redis(f"redis://default:{password}@127.0.0.1:{urlsplit(at).port}/0") as redis:
            await redis.xadd("flotilla.tasks.research", {"event": b"not an event"})
    yield
    with fleet.reached() as reached:
        async with reached.client() as client:
            (letter,) = (await client.get("/v1/dead-letters")).json()["dead_letters"]
            answer = await client.delete(f"/v1/dead-letters/{letter['dead_letter_id']}")
            assert answer.status_code == 200, answer.text


@asynccontextmanager
async def audit_gap(fleet: Fleet) -> AsyncIterator[None]:
    """An event that never left the outbox, while later ones of its session did; put back in the end."""
    async with fleet.database() as database:
        async with scaled_to_none(fleet.namespace, f"{RELEASE}-outbox-relay"):
            with fleet.reached() as reached:
                async with reached.client() as client:
                    await finished(client, await start_run(client, "gap", QUESTION, "gap"), timeout_s=120)
            await database.execute(_TAKEN.format("gap"))
            assert await database.execute(_TAKE) == "DELETE 1"
        yield
        await database.execute(_PUT_BACK)


@asynccontextmanager
async def overdue_approval(fleet: Fleet) -> AsyncIterator[None]:
    """One that waits since an hour ago; decided in the end."""
    with fleet.reached() as reached:
        async with reached.client() as client:
            action = await parked(client, "overdue")
        async with fleet.database() as database:
            await database.execute(_REMIND, action)
        yield
        async with reached.client() as client:
            await approved_by(reached, client, "carol", action)


@asynccontextmanager
async def kafka_down(fleet: Fleet) -> AsyncIterator[None]:
    """The demo's broker keeps nothing, so it stays away."""
    fleet.namespace.kubectl("scale", "deployment/flotilla-demo-kafka", "--replicas=0")
    yield


@asynccontextmanager
async def scaled_to_none(namespace: Namespace, deployment: str) -> AsyncIterator[None]:
    """No pod of a Deployment as long as the block runs; one afterwards."""
    namespace.kubectl("scale", f"deployment/{deployment}", "--replicas=0")
    await namespace.all_ready(120)
    yield
    namespace.kubectl("scale", f"deployment/{deployment}", "--replicas=1")
    await namespace.all_ready(300)


@contextmanager
def asked_all_the_time(fleet: Fleet) -> Iterator[None]:
    """Runs of their own sessions, begun one after the other, whatever becomes of them."""
    stop, refused = threading.Event(), list[str]()

    def ask(client: httpx.Client) -> None:
        number = 0
        while not stop.wait(ASKED_EVERY_S):
            number += 1
            answer = client.post(f"/v1/sessions/background-{number}/runs", json={"query": QUESTION})
            if answer.status_code != 202:
                refused.append(answer.text)

    with (
        fleet.reached() as reached,
        httpx.Client(base_url=reached.url, headers=_bearer(reached.key), timeout=60) as client,
    ):
        asking = threading.Thread(target=ask, args=[client])
        asking.start()
        try:
            yield
        finally:
            stop.set()
            asking.join()
    assert refused == []


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def approved_by(reached: Reached, admin: httpx.AsyncClient, person: str, action: str) -> None:
    """Decide as somebody else than the admin who asked."""
    async with reached.client(await key_of(admin, person)) as client:
        await approve(client, action)
