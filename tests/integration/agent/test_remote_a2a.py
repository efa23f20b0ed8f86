"""An agent elsewhere as an agent of the fleet; elsewhere is the SDK's own server."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from a2a.helpers import get_message_text, new_text_artifact
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Task,
    TaskState,
    TaskStatus,
)
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from flotilla.agent.a2a import RemoteAgentSettings, remote_agent
from flotilla.bus import Redis
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import cancelled_key
from flotilla.postgres import Pool
from flotilla.runtime.health import http_server
from flotilla_devstack.ports import free_port
from tests.support.agents import publish, replies, running, session_events, task
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")
NAME = "a2a:refunds"
TOKEN = "their-secret"


class Refunds(AgentExecutor):
    """Answers with what it was asked, or fails where it is asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.credentials: list[str | None] = []
        self.cancelled: list[str] = []

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        text = get_message_text(context.message)
        self.asked.append((context.message.message_id, text))
        task_id, context_id = str(context.task_id), str(context.context_id)
        state = TaskState.TASK_STATE_SUBMITTED
        await event_queue.enqueue_event(Task(id=task_id, context_id=context_id, status=TaskStatus(state=state)))
        updater = TaskUpdater(event_queue, task_id, context_id)
        if text == "without end":
            await updater.start_work()
            await asyncio.sleep(3600)
        if text == "fail":
            await updater.failed()
            return
        if text == "credentials?":
            text = str(self.credentials)
        answer = new_text_artifact("answer", "x" * 2_000_000 if text == "long" else f"refunded: {text}")
        await updater.add_artifact(list(answer.parts))
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        task_id, context_id = str(context.task_id), str(context.context_id)
        self.cancelled.append(task_id)
        await TaskUpdater(event_queue, task_id, context_id).cancel()


class Elsewhere:
    """The remote agent: its port, what it was asked, and what it was sent as credentials."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.interface = self.url
        self.refunds = Refunds()
        self.credentials = self.refunds.credentials
        self.compresses = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        card = AgentCard(
            name="refunds",
            description="d",
            version="1",
            supported_interfaces=[
                AgentInterface(url=self.interface, protocol_binding="JSONRPC", protocol_version="1.0")
            ],
            capabilities=AgentCapabilities(),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[AgentSkill(id="refund", name="refund", description="d", tags=["t"])],
        )
        handler = DefaultRequestHandler(self.refunds, InMemoryTaskStore(), card)
        app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._note)
        app.add_middleware(BaseHTTPMiddleware, dispatch=self._compress)
        async with http_server(app, "127.0.0.1", self.port, grace_s=0).serving():
            yield

    async def _note(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        self.credentials.append(request.headers.get("authorization"))
        return await call_next(request)

    async def _compress(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer with what is small only until it is unpacked."""
        if not self.compresses:
            return await call_next(request)
        return Response(gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"})


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    one = Elsewhere()
    async with one.serving():
        yield one


def settings(elsewhere: Elsewhere, tmp_path: Path, **options: Any) -> RemoteAgentSettings:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    return RemoteAgentSettings(
        **{
            "agent_name": NAME,
            "postgres_dsn": "postgresql://unused",
            "redis_url": "redis://unused",
            "ticket_public_key_file": token,
            "a2a_url": elsewhere.url,
            "a2a_hosts": (elsewhere.url,),
            "a2a_token_file": token,
            **options,
        }
    )


async def reply(pool: Pool, redis: Redis, given: RemoteAgentSettings, **question: Any) -> dict[str, Any]:
    """What the agent answers to a task."""
    found: list[dict[str, Any]] = []
    async with running(remote_agent(given), pool, redis):
        await publish(pool, redis, task(agent=NAME, input=question))

        async def answered() -> bool:
            found[:] = [one for one in await replies(redis, agent=NAME) if one["status"] in {"done", "failed"}]
            return bool(found)

        await eventually(answered, timeout_s=30)
    return found[0]


async def test_remote_agent_is_asked_once_with_the_key_as_message_and_recorded(
    *, pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = await reply(pool, redis, settings(elsewhere, tmp_path), text="order 7")
    assert (done["status"], done["result"]["text"], done["result"]["state"]) == (
        "done",
        "refunded: order 7",
        "completed",
    )
    ((message_id, asked),) = elsewhere.refunds.asked
    assert (len(message_id), asked) == (32, "order 7")
    assert set(elsewhere.credentials) == {f"Bearer {TOKEN}"}
    events = await session_events(pool)
    tools = [event["data"]["tool"] for event in events if event["type"].endswith("tool_call.v1")]
    assert tools == ["find", "ask"]
    assert TOKEN not in repr(events) + capsys.readouterr().out


async def test_failure_elsewhere_is_the_tasks(pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path) -> None:
    failed = await reply(pool, redis, settings(elsewhere, tmp_path), text="fail")
    assert failed["status"] == "failed"
    assert "is failed" in failed["failure"]["message"]


async def test_remote_task_ends_with_the_task_that_asked_for_it(
    pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    question = task(agent=NAME, input={"text": "without end"})
    async with running(remote_agent(settings(elsewhere, tmp_path)), pool, redis):
        await publish(pool, redis, question)
        await eventually(lambda: elsewhere.refunds.asked, timeout_s=30)
        await redis.set(cancelled_key(question.task_id), b"1")
        await eventually(lambda: elsewhere.refunds.cancelled, timeout_s=30)

        async def is_cancelled() -> bool:
            return any(one["status"] == "cancelled" for one in await replies(redis, agent=NAME))

        await eventually(is_cancelled, timeout_s=30)


async def test_remote_task_goes_on_while_the_process_that_asked_is_replaced(
    pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    async with running(remote_agent(settings(elsewhere, tmp_path)), pool, redis):
        await publish(pool, redis, task(agent=NAME, input={"text": "without end"}))
        await eventually(lambda: elsewhere.refunds.asked, timeout_s=30)
    assert elsewhere.refunds.cancelled == []


async def test_card_that_names_another_host_is_not_followed(pool: Pool, redis: Redis, tmp_path: Path) -> None:
    lying = Elsewhere()
    lying.interface = "http://169.254.169.254/latest"
    async with lying.serving():
        failed = await reply(pool, redis, settings(lying, tmp_path), text="order 7")
    assert failed["status"] == "failed"
    assert "is not on the list FLOTILLA_A2A_HOSTS" in failed["failure"]["message"]
    assert lying.refunds.asked == []


async def test_answer_without_end_is_not_read(pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path) -> None:
    failed = await reply(pool, redis, settings(elsewhere, tmp_path, a2a_on_unknown="fail"), text="long")
    assert failed["status"] == "failed"
    assert "longer than FLOTILLA_A2A_MAX_BYTES" in failed["failure"]["message"]


async def test_compressed_answer_is_not_unpacked(elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere.compresses = True
    with pytest.raises(RetryLater, match="compressed its answer"):
        await remote_agent(settings(elsewhere, tmp_path)).tools["find"]()


async def test_token_that_the_answer_repeats_is_in_no_event(
    pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    done = await reply(pool, redis, settings(elsewhere, tmp_path), text="credentials?")
    assert "Bearer [secret]" in done["result"]["text"]
    assert TOKEN not in repr(done) + repr(await session_events(pool))


async def test_data_that_the_protocol_can_not_hold_is_refused_before_anything_is_sent(
    pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    failed = await reply(pool, redis, settings(elsewhere, tmp_path), text="x", data=deep)
    assert (failed["status"], failed["failure"]["type"]) == ("failed", "Invalid")
    assert elsewhere.refunds.asked == []


async def test_gated_call_waits_for_people_before_anything_is_sent(
    pool: Pool, redis: Redis, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    waiting = await reply(pool, redis, settings(elsewhere, tmp_path, a2a_approval="high"), text="order 7")
    (approval,) = waiting["failure"]["approvals"]
    assert (approval["action"], approval["args"]["text"]) == (f"{NAME}.ask", "order 7")
    assert elsewhere.refunds.asked == []
