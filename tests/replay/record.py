"""Records the histories that later versions of the workflows must still replay.

    python -m tests.replay.record VERSION

runs every scenario on real servers and writes `tests/replay/histories/VERSION/<workflow>.<scenario>.json`. Record a
release's histories once, before its workflows change; never record over them.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from flotilla.approvals.policy import parse_policy
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.approvals import Decision
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import PIPELINE_WORKFLOW, action_workflow_id, task_workflow_id
from flotilla.contracts.orders import CANCEL_UPDATE
from flotilla.contracts.requests import PipelineRequest, RAGRequest
from flotilla.contracts.tasks import APPROVAL_REQUIRED
from flotilla.postgres import Pool, open_pool
from flotilla_devstack import stack_for_tests
from tests.integration.approvals.desk import ALICE, BOB, Desk, Refused, open_desk
from tests.integration.saga.shop import Shop, open_shop
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.postgres import Database, drop, make_template, with_database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker, running_worker

HISTORIES = Path(__file__).parent / "histories"
Handle: TypeAlias = WorkflowHandle[Any, Any]
Scenario: TypeAlias = Callable[["Recorder"], Awaitable[Handle]]
SCENARIOS: dict[str, Scenario] = {}
HASTY = """
version = "hasty"
[defaults]
roles = ["approver"]
reminder_s = 1
deadline_s = 2
"""


@dataclass
class Recorder:
    """Everything that scenarios run on."""

    client: Client
    pool: Pool
    redis: Redis
    worker: RunningWorker
    desk: Desk
    hasty_desk: Desk
    """Whose actions nobody has time to decide."""
    shop: Shop

    def question(self) -> RAGRequest:
        name = secrets.token_hex(4)
        return RAGRequest(query="Who?", user_id="alice", session_id=f"s-{name}", tenant_id="acme", run_id=f"r-{name}")

    async def ask(self, write: Callable[[Task], Awaitable[dict[str, Any] | None]], **changes: Any) -> Handle:
        async with (
            foreign_agent(self.redis, "research", agents.research),
            foreign_agent(self.redis, "write", write),
        ):
            handle = await self.worker.start_run(replace(self.question(), **changes))
            await _ended(handle)
            return handle


def scenario(scenario: Scenario) -> Scenario:
    """Registers a scenario; `rag__success` is recorded as `rag.success.json`."""
    SCENARIOS[scenario.__name__.replace("__", ".")] = scenario
    return scenario


async def _ended(handle: Handle) -> None:
    try:
        await handle.result()
    except WorkflowFailureError as error:
        print(f"{handle.id} failed, as it should: {error.cause}")  # noqa: T201 - a command


@scenario
async def rag__success(on: Recorder) -> Handle:
    return await on.ask(agents.write)


@scenario
async def rag__second_try(on: Recorder) -> Handle:
    async def fail_once(task: Task) -> dict[str, Any]:
        if task["attempt"] == 1:
            return agents.failed("RateLimited", "429", retryable=True)
        return await agents.write(task)

    return await on.ask(fail_once)


@scenario
async def rag__failure(on: Recorder) -> Handle:
    async def refuse(_task: Task) -> dict[str, Any]:
        return agents.failed("Unauthorized", "401", retryable=False)

    return await on.ask(refuse)


@scenario
async def rag__cancelled(on: Recorder) -> Handle:
    asked = asyncio.Event()

    async def wait(_task: Task) -> None:
        asked.set()

    async with foreign_agent(on.redis, "research", wait) as agent:
        handle = await on.worker.start_run(on.question())
        await asked.wait()
        await handle.cancel()
        await agent.reply(agent.seen[0], status="cancelled")
        await _ended(handle)
        return handle


@scenario
async def rag__paused(on: Recorder) -> Handle:
    """An agent's gated call waits for a person, who lets it go ahead."""
    args: JsonObject = {"text": "hello"}
    vote = f"vote-{secrets.token_hex(4)}"
    needed = {"approval_id": vote, "action": "research.send_mail", "description": "a mail", "args": args}

    async def ask_first(task: Task) -> dict[str, Any]:
        if task["attempt"] == 1:
            pause = agents.failed(APPROVAL_REQUIRED, "waits", retryable=False)
            return pause | {"failure": pause["failure"] | {"approvals": [needed | {"risk_level": "medium"}]}}
        return await agents.research(task)

    async def approve() -> None:
        handle = on.client.get_workflow_handle(action_workflow_id(vote))
        await eventually(lambda: on.desk.in_inbox(handle), timeout_s=60)
        await on.desk.decide(handle, BOB, action="research.send_mail", seen=args)

    async with foreign_agent(on.redis, "research", ask_first), foreign_agent(on.redis, "write", agents.write):
        handle = await on.worker.start_run(on.question())
        await approve()
        await _ended(handle)
        return handle


@scenario
async def pipeline__success(on: Recorder) -> Handle:
    async with foreign_agent(on.redis, "research", agents.research):
        return await _pipeline(on)


@scenario
async def pipeline__failure(on: Recorder) -> Handle:
    async def refuse(_task: Task) -> dict[str, Any]:
        return agents.failed("ValueError", "no", retryable=True)

    async with foreign_agent(on.redis, "research", refuse):
        return await _pipeline(on)


async def _pipeline(on: Recorder) -> Handle:
    task_id = secrets.token_hex(6)
    request = PipelineRequest(
        steps=["research"], input={"query": "Who?"}, user_id="alice", task_id=task_id, tenant_id="acme"
    )
    handle: Handle = await on.client.start_workflow(
        PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=on.worker.task_queue
    )
    await _ended(handle)
    return handle


@scenario
async def approval__low_risk(on: Recorder) -> Handle:
    handle = await on.desk.submit(risk="low")
    await _ended(handle)
    return handle


@scenario
async def approval__approved(on: Recorder) -> Handle:
    return await _decided(on, "approve")


@scenario
async def approval__rejected(on: Recorder) -> Handle:
    return await _decided(on, "reject")


@scenario
async def approval__edited(on: Recorder) -> Handle:
    handle = await on.desk.submit()
    await eventually(lambda: on.desk.in_inbox(handle))
    edited = {"text": "goodbye"}
    await on.desk.decide(handle, BOB, "edit", args=edited)
    await on.desk.decide(handle, "carol", seen=edited)
    await _ended(handle)
    return handle


@scenario
async def approval__cancelled(on: Recorder) -> Handle:
    handle = await on.desk.submit()
    await eventually(lambda: on.desk.in_inbox(handle))
    await handle.cancel()
    await _ended(handle)
    return handle


@scenario
async def approval__two_of_three(on: Recorder) -> Handle:
    """A vote, the same one again, one that policy refuses, and the one that decides."""
    handle = await on.desk.submit(risk="high")
    await eventually(lambda: on.desk.in_inbox(handle))
    for voter in (BOB, BOB, ALICE, "carol"):
        try:
            await on.desk.decide(handle, voter)
        except Refused as refused:
            print(f"{voter} was refused, as they should: {refused}")  # noqa: T201 - a command
    await _ended(handle)
    return handle


@scenario
async def approval__timeout(on: Recorder) -> Handle:
    """Reminded, then too late."""
    handle = await on.hasty_desk.submit()
    await _ended(handle)
    return handle


@scenario
async def approval__signal(on: Recorder) -> Handle:
    person = f"bob-{secrets.token_hex(4)}"
    await on.desk.add_person(person, "approver")
    handle = await on.desk.submit(action="http_request", args={"method": "GET", "url": "http://nowhere/"})
    await eventually(lambda: on.desk.in_inbox(handle))
    await on.desk.signal(handle, "nobody", approved=True)
    await on.desk.signal(handle, person, approved=True)
    await _ended(handle)
    return handle


@scenario
async def approval__waiting(on: Recorder) -> Handle:
    """Not over: what an upgrade finds."""
    handle = await on.desk.submit(risk="high")
    await eventually(lambda: on.desk.in_inbox(handle))
    await on.desk.decide(handle, BOB)
    return handle


async def _decided(on: Recorder, decision: Decision) -> Handle:
    handle = await on.desk.submit()
    await eventually(lambda: on.desk.in_inbox(handle))
    await on.desk.decide(handle, BOB, decision)
    await _ended(handle)
    return handle


@scenario
async def order__approved(on: Recorder) -> Handle:
    return await _ordered(on)


@scenario
async def order__rejected(on: Recorder) -> Handle:
    on.shop.faults.at = {"verify_identity:after"}
    return await _ordered(on)


@scenario
async def order__cancelled(on: Recorder) -> Handle:
    pause = asyncio.Event()
    on.shop.faults.pauses = {"approve_order:after": pause}
    handle = await on.shop.place(secrets.token_hex(4))
    await eventually(lambda: "approve_order:after" in on.shop.faults.reached)
    await handle.execute_update(CANCEL_UPDATE)
    pause.set()
    await _ended(handle)
    return handle


@scenario
async def order__parked(on: Recorder) -> Handle:
    on.shop.faults.at = {"approve_order:after", "release_funds:before"}
    order_id = secrets.token_hex(4)
    handle = await on.shop.place(order_id)
    await eventually(lambda: on.shop.is_parked(order_id))
    await on.shop.operate(handle, "reserve_funds", "retry")
    await eventually(lambda: on.shop.is_parked(order_id))
    on.shop.faults.at = set()
    await on.shop.operate(handle, "reserve_funds", "skip", "by hand")
    await _ended(handle)
    return handle


async def _ordered(on: Recorder) -> Handle:
    handle = await on.shop.place(secrets.token_hex(4))
    await _ended(handle)
    return handle


@asynccontextmanager
async def _recorder() -> AsyncIterator[Recorder]:
    with stack_for_tests() as stack:
        name = f"flotilla_record_{secrets.token_hex(4)}"
        server = stack.postgres_dsn("postgres")
        await make_template(server, name)
        database = Database(with_database(server, name))
        redis_url = stack.extra_redis().url
        client = await Client.connect(stack.temporal_address)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(drop, server, name)
            pool = await opened.enter_async_context(open_pool(database.dsn(), application="record"))
            redis = await opened.enter_async_context(connect_redis(redis_url))
            worker = await opened.enter_async_context(
                running_worker(
                    dsn=database.dsn("flotilla_worker"),
                    pool=pool,
                    redis_url=redis_url,
                    temporal_address=stack.temporal_address,
                    task_queue=f"{name}-runs",
                )
            )
            desk = await opened.enter_async_context(open_desk(client, pool, f"{name}-actions"))
            hasty_desk = await opened.enter_async_context(
                open_desk(client, pool, f"{name}-hasty", policy=parse_policy(HASTY, "hasty"))
            )
            shop = await opened.enter_async_context(open_shop(client, pool, f"{name}-orders"))
            await shop.add_account()
            yield Recorder(client, pool, redis, worker, desk, hasty_desk, shop)


def without_traces(history: str) -> str:
    """The history without what only this machine knows: stack traces, process and host names."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {name: clean(item) for name, item in value.items() if name != "stackTrace"}
        return kept | {"identity": "recorder"} if "identity" in kept else kept

    return json.dumps(clean(json.loads(history)), indent=1) + "\n"


async def record(version: str, only: str = "") -> None:
    """Runs every scenario whose name begins with `only`, and writes its history."""
    folder = HISTORIES / version
    folder.mkdir(parents=True, exist_ok=True)
    async with _recorder() as recorder:
        for name, run in SCENARIOS.items():
            if not name.startswith(only):
                continue
            recorder.shop.faults.__init__()  # type: ignore[misc]
            handle = await run(recorder)
            history = await handle.fetch_history()
            await asyncio.to_thread((folder / f"{name}.json").write_text, without_traces(history.to_json()))
            print(f"recorded {name}: {len(history.events)} events")  # noqa: T201 - a command
            if name.endswith(".waiting"):
                await handle.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    asyncio.run(record(arguments.version, arguments.only))
