"""A key that is revoked while its holder waits for an answer gets none, through any interface."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import Any
from uuid import uuid4

import httpx
import pytest

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from gateway.limits import EventStreamSlots
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
    """A gateway that checks a reader's rights at every look; others do so every five seconds."""

    gateway: RunningGateway
    waiting: int = 0
    """How many waits began."""
    looks: int = 0
    """How many checks of a reader's rights passed or failed."""


@pytest.fixture
async def strict(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Strict]:
    monkeypatch.setattr(StreamAccessCheck, "__init__", partialmethod(StreamAccessCheck.__init__, every_s=0.01))
    hold, may_read = EventStreamSlots.hold, StreamAccessCheck.may_read
    async with replica(key_cache_s=0) as running:
        strict = Strict(running)

        def counted_hold(slots: EventStreamSlots, tenant_id: str) -> AbstractContextManager[None]:
            strict.waiting += 1
            return hold(slots, tenant_id)

        async def counted_look(check: StreamAccessCheck) -> bool:
            may = await may_read(check)
            strict.looks += 1
            return may

        monkeypatch.setattr(EventStreamSlots, "hold", counted_hold)
        monkeypatch.setattr(StreamAccessCheck, "may_read", counted_look)
        yield strict


async def revoke_all(gateway: RunningGateway) -> None:
    await gateway.as_superuser("UPDATE flotilla.api_keys SET revoked_at = now() WHERE subject = 'olga'")


async def started(client: httpx.AsyncClient, path: str, body: Any, name: str) -> str:
    answer = await client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()[name])


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
        await eventually(lambda: strict.looks > 0 or reader.ended)
        assert not reader.ended, reader.text
        [run] = await strict.gateway.rows("SELECT run_id FROM flotilla.runs")
        await revoke_all(strict.gateway)
        await strict.gateway.finish(run["run_id"], feed)
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
        await eventually(lambda: strict.looks > 0 or reader.ended)
        assert not reader.ended, reader.text
        [replay] = await strict.gateway.rows("SELECT run_id FROM flotilla.runs WHERE run_id <> $1", recorded)
        await revoke_all(strict.gateway)
        await strict.gateway.finish(replay["run_id"], feed)
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
            await eventually(lambda: strict.waiting > 0 or reader.ended)
            assert not reader.ended, reader.text
            await revoke_all(strict.gateway)
            gate.is_open.set()
            await eventually(lambda: reader.ended, timeout_s=20)
    assert FOUND not in reader.text
