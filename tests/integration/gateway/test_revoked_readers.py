"""A key that is revoked while its holder waits for an answer gets none, through any interface."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from gateway.live.admission import StreamAccessCheck
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.integration.gateway.test_replays import register
from tests.support.gateway import ANSWER, RunningGateway
from tests.support.waiting import eventually

TEXT = str(ANSWER["answer"])
"""Of a run that the test ends."""
FOUND = "mooring line"
"""In the answer of the research agent."""
ASKED = {"role": "user", "content": "Who opens the gate?"}
MESSAGE = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "Who opens the gate?"}]}}
HEADERS = {"/mcp": {"Accept": "application/json, text/event-stream"}, "/a2a": {"A2A-Version": "1.0"}}
"""By how the path begins."""


@dataclass(frozen=True)
class Door:
    """A request that is answered once a run or task is over, or as it goes on."""

    method: str
    path: str
    body: Any = None
    starts: bool = True
    """Whether it starts what it waits for; else the path names what was started before: `{id}`."""


def called(tool: str, arguments: dict[str, Any]) -> Door:
    params = {"name": tool, "arguments": arguments}
    return Door("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


RUNS = {
    "events": Door("GET", "/v1/runs/{id}/events", starts=False),
    "waiting": Door("GET", "/v1/runs/{id}?wait_s=60", starts=False),
    "started and waiting": Door("POST", "/v1/sessions/{unique}/runs", {"query": "Who?", "wait_s": 60}),
    "chat, streamed": Door(
        "POST", "/openai/v1/chat/completions", {"model": "flotilla/rag", "messages": [ASKED], "stream": True}
    ),
    "chat": Door("POST", "/openai/v1/chat/completions", {"model": "flotilla/rag", "messages": [ASKED]}),
    "response, streamed": Door(
        "POST", "/openai/v1/responses", {"model": "flotilla/rag", "input": "Who?", "stream": True}
    ),
    "A2A, streamed": Door("POST", "/a2a/workflows/rag/message:stream", MESSAGE),
    "A2A": Door("POST", "/a2a/workflows/rag/message:send", MESSAGE),
    "A2A, subscribed": Door("GET", "/a2a/workflows/rag/tasks/{id}:subscribe", starts=False),
    "MCP": called("workflow__rag", {"query": "Who?"}),
}
REPLAY = Door("POST", "/v1/runs/{id}/replays", {"wait_s": 60}, starts=False)
TASKS = {
    "events": Door("GET", "/v1/tasks/{id}/events", starts=False),
    "waiting": Door("GET", "/v1/tasks/{id}?wait_s=60", starts=False),
    "MCP": called("agent__research", {"query": "Who?"}),
}


@pytest.fixture
async def feed(redis_url: str) -> AsyncIterator[LiveRunWriter]:
    async with connect_redis(redis_url) as redis:
        yield LiveRunWriter(redis)


@dataclass
class Strict:
    """A gateway that asks for a reader's rights at every look; others do so every five seconds.

    It holds the second look until the test lets it go on: what the first one allowed is read by then.
    """

    gateway: RunningGateway
    begun: int = 0
    """How many looks at a reader's rights began."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self, check: StreamAccessCheck) -> bool:
        """In place of `StreamAccessCheck.may_read`."""
        self.begun += 1
        if self.begun > 1:
            await self.go_on.wait()
        check.recheck_now()
        return await _may_read(check)


_may_read = StreamAccessCheck.may_read


@pytest.fixture
async def strict(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Strict]:
    async with replica(key_cache_s=0) as running:
        strict = Strict(running)

        async def look(check: StreamAccessCheck) -> bool:
            return await strict.look(check)

        monkeypatch.setattr(StreamAccessCheck, "may_read", look)
        yield strict


async def revoke_all(gateway: RunningGateway) -> None:
    await gateway.as_superuser("UPDATE flotilla.api_keys SET revoked_at = now() WHERE subject = 'olga'")


async def started(client: httpx.AsyncClient, path: str, body: Any, name: str) -> str:
    answer = await client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()[name])


async def is_over(gateway: RunningGateway) -> bool:
    """Whether the task has its answer."""
    return bool(await gateway.rows("SELECT 1 FROM flotilla.pipelines WHERE finished_at IS NOT NULL"))


@dataclass
class Reader:
    """One client at a door, reading in the background."""

    client: httpx.AsyncClient
    door: Door
    of: str
    text: str = ""
    ended: bool = False

    async def read(self) -> None:
        """Read until the answer ends."""
        path = self.door.path.replace("{id}", self.of).replace("{unique}", f"s-{uuid4()}")
        headers = HEADERS.get(path[:4], {})
        async with self.client.stream(self.door.method, path, json=self.door.body, headers=headers) as answer:
            async for part in answer.aiter_text():
                self.text += part
        self.ended = True


async def let_look_twice(strict: Strict, reader: Reader, feed: LiveRunWriter, run_id: str) -> None:
    """Wakes the reader by tokens until it looks at its rights for the second time."""
    live = await strict.gateway.live(run_id)

    async def looked_again() -> bool:
        await feed.write_token(live, "token ", task_id="t1", attempt=1)
        await feed.wait_until_written()
        return strict.begun > 1 or reader.ended

    await eventually(looked_again, timeout_s=20)
    assert not reader.ended, reader.text


@asynccontextmanager
async def reading(client: httpx.AsyncClient, door: Door, of: str) -> AsyncIterator[Reader]:
    reader = Reader(client, door, of)
    task = asyncio.create_task(reader.read())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("door", RUNS.values(), ids=RUNS)
async def test_a_revoked_key_reads_no_answer_of_a_run(
    strict: Strict, feed: LiveRunWriter, unique: Callable[[str], str], door: Door
) -> None:
    client = await strict.gateway.client_of("olga", "operator")
    run_id = ""
    if not door.starts:
        run_id = await started(client, f"/v1/sessions/{unique('s')}/runs", {"query": "Who?"}, "run_id")
    async with reading(client, door, run_id) as reader:
        await eventually(lambda: strict.begun > 0 or reader.ended)
        [run] = await strict.gateway.rows("SELECT run_id FROM flotilla.runs")
        await let_look_twice(strict, reader, feed, run["run_id"])
        await revoke_all(strict.gateway)
        await strict.gateway.finish(run["run_id"], feed)
        strict.go_on.set()
        await eventually(lambda: reader.ended, timeout_s=20)
    assert TEXT not in reader.text


async def test_a_revoked_key_reads_no_answer_of_a_replay(
    strict: Strict, feed: LiveRunWriter, unique: Callable[[str], str]
) -> None:
    for name in ("research", "write"):
        await register(strict.gateway, name)
    client = await strict.gateway.client_of("olga", "operator")
    recorded = await started(client, f"/v1/sessions/{unique('s')}/runs", {"query": "Who?"}, "run_id")
    await strict.gateway.finish(recorded)
    async with reading(client, REPLAY, recorded) as reader:
        await eventually(lambda: strict.begun > 0 or reader.ended)
        [replay] = await strict.gateway.rows("SELECT run_id FROM flotilla.runs WHERE run_id <> $1", recorded)
        await let_look_twice(strict, reader, feed, replay["run_id"])
        await revoke_all(strict.gateway)
        await strict.gateway.finish(replay["run_id"], feed)
        strict.go_on.set()
        await eventually(lambda: reader.ended, timeout_s=20)
    assert TEXT not in reader.text


@pytest.mark.parametrize("door", TASKS.values(), ids=TASKS)
async def test_a_revoked_key_reads_no_answer_of_a_task(
    *,
    strict: Strict,
    redis_url: str,
    temporal_address: str,
    gate: Gate,
    unique: Callable[[str], str],
    door: Door,
) -> None:
    await register(strict.gateway, "research")
    client = await strict.gateway.client_of("olga", "operator")
    async with answering(strict.gateway, redis_url, temporal_address, gate):
        task_id = ""
        if not door.starts:
            body = {"steps": ["research"], "input": {"query": "Who?"}, "session_id": unique("s")}
            task_id = await started(client, "/v1/tasks", body, "task_id")
        async with reading(client, door, task_id) as reader:
            await eventually(lambda: strict.begun > 1 or reader.ended, timeout_s=20)
            assert not reader.ended, reader.text
            await revoke_all(strict.gateway)
            gate.is_open.set()
            await eventually(lambda: is_over(strict.gateway), timeout_s=20)
            strict.go_on.set()
            await eventually(lambda: reader.ended, timeout_s=20)
    assert FOUND not in reader.text
