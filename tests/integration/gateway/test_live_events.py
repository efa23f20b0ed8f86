import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.bus.live import LiveRunWriter
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually


@dataclass
class Seen:
    """What a client of an event stream has received."""

    events: list[tuple[str, str, Any]] = field(default_factory=list)
    closed: bool = False

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]

    @property
    def seqs(self) -> list[int]:
        return [data["sequence"] for kind, _, data in self.events if kind == "session_event"]

    @property
    def text(self) -> str:
        return "".join(data["text"] for kind, _, data in self.events if kind == "token")

    def has(self, count: int) -> bool:
        return len(self.events) >= count

    @property
    def last_id(self) -> str:
        return self.events[-1][1]


@asynccontextmanager
async def following(client: httpx.AsyncClient, run_id: str, last_id: str | None = None) -> AsyncIterator[Seen]:
    """Reads the run's events in the background."""
    seen = Seen()
    task = asyncio.create_task(_read(client, run_id, last_id, seen))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _read(client: httpx.AsyncClient, run_id: str, last_id: str | None, seen: Seen) -> None:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                seen.events.append((fields["event"], fields["id"], json.loads(fields["data"])))
                fields = {}
    seen.closed = True


async def all_events(client: httpx.AsyncClient, run_id: str, last_id: str | None = None) -> Seen:
    async with following(client, run_id, last_id) as seen:
        await eventually(lambda: seen.closed, timeout_s=20)
        return seen


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as connected:
        yield connected


@pytest.fixture
def feed(redis: Redis) -> LiveRunWriter:
    return LiveRunWriter(redis)


async def a_run(client: httpx.AsyncClient, session_id: str) -> str:
    answer = await client.post(f"/v1/sessions/{session_id}/runs", json={"query": "Who?"})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def test_tokens_steps_and_session_events_arrive_while_they_happen_and_done_ends_the_stream(
    gateway: RunningGateway, operator: httpx.AsyncClient, feed: LiveRunWriter, unique: Callable[[str], str]
) -> None:
    run_id = await a_run(operator, unique("s"))
    live = await gateway.live(run_id)
    async with following(operator, run_id) as seen:
        await eventually(lambda: seen.seqs == [1, 2])
        await feed.write_step(live, "write", "started", attempt=1, agent="write")
        await feed.write_token(live, "The harbour ", task_id="t", attempt=1)
        await feed.wait_until_written()
        await eventually(lambda: seen.text == "The harbour ")
        await feed.write_reset(live, task_id="t", attempt=2)
        await gateway.work(run_id, "a tool was used")
        await eventually(lambda: seen.seqs == [1, 2, 3])
        await feed.write_token(live, "master.", task_id="t", attempt=2)
        await feed.wait_until_written()
        await gateway.finish(run_id, feed)
        await eventually(lambda: seen.closed)
    assert seen.seqs == [1, 2, 3, 4]
    assert seen.text == "The harbour master."
    assert seen.kinds[-1] == "done"
    assert {"step", "reset", "token", "session_event"} <= set(seen.kinds)
    assert seen.events[-1][2] == {"status": "success"}


async def test_a_client_that_was_cut_off_goes_on_at_another_replica_without_gap_or_double(
    replica: Replica, feed: LiveRunWriter, unique: Callable[[str], str]
) -> None:
    async with replica() as one, replica() as two:
        key = await one.key("olga", ["operator"])
        run_id = await a_run(one.client(key), unique("s"))
        received: list[tuple[str, str, Any]] = []
        last_id: str | None = None
        for turn in range(6):
            client = (one, two)[turn % 2].client(key)
            async with following(client, run_id, last_id) as seen:
                await feed.write_token(await one.live(run_id), f"{turn} ", task_id=f"t{turn}", attempt=1)
                await feed.wait_until_written()
                await one.work(run_id, f"work {turn}")
                await eventually(partial(seen.has, 2))  # cut off wherever it happens to be
                received += seen.events
                last_id = seen.last_id
        await one.finish(run_id, feed)
        received += (await all_events(two.client(key), run_id, last_id)).events
    whole = Seen(received)
    assert whole.seqs == list(range(1, 10))
    assert whole.text == "0 1 2 3 4 5 "
    assert whole.kinds[-1] == "done"


async def test_without_the_live_stream_session_events_come_from_the_log_then_done(
    gateway: RunningGateway,
    operator: httpx.AsyncClient,
    redis: Redis,
    feed: LiveRunWriter,
    unique: Callable[[str], str],
) -> None:
    run_id = await a_run(operator, unique("s"))
    await feed.write_token(await gateway.live(run_id), "gone", task_id="t", attempt=1)
    await feed.wait_until_written()
    await gateway.work(run_id, "one", "two")
    async with following(operator, run_id) as first:
        await eventually(lambda: first.seqs == [1, 2, 3, 4])
    await redis.flushall()
    await gateway.finish(run_id)
    seen = await all_events(operator, run_id, f"{first.last_id.split(';')[0]};3")
    assert seen.seqs == [4, 5]
    assert seen.kinds == ["session_event", "session_event", "done"]
    assert (await all_events(operator, run_id)).seqs == [1, 2, 3, 4, 5]


async def test_followers_hear_the_end_while_redis_is_away(
    gateway: RunningGateway, operator: httpx.AsyncClient, redis_server: Any, unique: Callable[[str], str]
) -> None:
    run_id = await a_run(operator, unique("s"))
    async with following(operator, run_id) as seen:
        await eventually(lambda: seen.seqs == [1, 2])
        redis_server.kill()
        await gateway.finish(run_id)
        await eventually(lambda: seen.closed, timeout_s=15)
    assert seen.seqs == [1, 2, 3]
    assert seen.kinds[-1] == "done"


async def test_a_run_s_stream_leaves_out_what_is_not_its_own(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    first = await a_run(operator, session_id)
    await gateway.finish(first)
    second = await a_run(operator, session_id)
    await gateway.finish(second)
    assert (await all_events(operator, first)).seqs == [1, 2, 3]
    assert (await all_events(operator, second)).seqs == [4, 5, 6]


async def test_an_id_that_was_never_given_out_is_422(operator: httpx.AsyncClient, unique: Callable[[str], str]) -> None:
    run_id = await a_run(operator, unique("s"))
    for wrong in ("7", "x;y", "1-1;", "1-1;99999999999999999999", "1-1;1;1"):
        answer = await operator.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": wrong})
        assert answer.status_code == 422, wrong


async def test_open_streams_are_limited_and_a_closed_one_makes_room(
    replica: Replica, unique: Callable[[str], str]
) -> None:
    async with replica(max_streams_per_tenant=2) as gateway:
        client = await gateway.client_of("olga", "operator")
        other = await gateway.client_of("eve", "operator", tenant="globex")
        run_id = await a_run(client, unique("s"))
        async with following(client, run_id) as one, following(client, run_id) as two:
            await eventually(lambda: one.events and two.events)
            refused = await client.get(f"/v1/runs/{run_id}/events")
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            async with following(other, await a_run(other, unique("s"))) as elsewhere:
                await eventually(lambda: elsewhere.events)

        async def opened() -> bool:
            async with client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
                return answer.status_code == 200

        await eventually(opened)


async def test_a_stopping_gateway_ends_its_streams_and_its_clients_go_on_elsewhere(
    replica: Replica, feed: LiveRunWriter, unique: Callable[[str], str]
) -> None:
    async with replica() as other:
        async with replica() as stopping:
            key = await other.key("olga", ["operator"])
            run_id = await a_run(stopping.client(key), unique("s"))
            async with following(stopping.client(key), run_id) as seen:
                await eventually(lambda: seen.seqs == [1, 2])
                stopping.runtime.request_stop("test")
                await eventually(lambda: seen.closed, timeout_s=3)
        assert seen.kinds[-1] != "done"
        await other.finish(run_id, feed)
        assert (await all_events(other.client(key), run_id, seen.last_id)).seqs == [3]


async def test_an_open_stream_ends_when_its_key_is_revoked_or_its_sign_in_is_over(
    replica: Replica, feed: LiveRunWriter, unique: Callable[[str], str]
) -> None:
    async with replica(console_key_login=True, key_cache_s=0.5) as gateway:
        keeps = await gateway.client_of("olga", "operator")
        admin = await gateway.client_of("root", "admin")
        made = (await admin.post("/v1/keys", json={"name": "reader", "roles": ["viewer"]})).json()
        browser = gateway.client()
        ours = {"X-Flotilla-Console": "1", "Sec-Fetch-Site": "same-origin"}
        login = {"key": await gateway.key("paula", ["viewer"])}
        assert (await browser.post("/auth/login", json=login, headers=ours)).status_code == 204
        run_id = await a_run(keeps, session := unique("s"))
        await keeps.patch(f"/v1/sessions/{session}/access", json={"visibility": "tenant"})
        async with (
            following(keeps, run_id) as stays,
            following(gateway.client(made["key"]), run_id) as revoked,
            following(browser, run_id) as over,
        ):
            await eventually(lambda: stays.seqs == revoked.seqs == over.seqs == [1, 2])
            assert (await admin.delete(f"/v1/keys/{made['key_id']}")).status_code == 200
            assert (await browser.post("/auth/logout", headers=ours)).status_code == 204
            await eventually(lambda: revoked.closed and over.closed, timeout_s=15)
            await gateway.finish(run_id, feed)
            await eventually(lambda: stays.closed)
        assert stays.kinds[-1] == "done"
        assert "done" not in revoked.kinds + over.kinds
