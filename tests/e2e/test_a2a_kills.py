"""A2A tasks of a whole fleet while its services are killed: each state follows the one before, once."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx
import pytest

from tests.e2e.fleet import Fleet, session_events
from tests.e2e.stores import query
from tests.e2e.stub_endpoint import StubEndpoint
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually

REASON = "read it twice"
AWAY = (httpx.TransportError, httpx.HTTPStatusError)
OVER = {"COMPLETED", "FAILED", "CANCELED"}
Kill: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass
class FollowedRun:
    """One task, as a client sees it that subscribes again whenever its stream breaks."""

    http: httpx.AsyncClient
    agent: str
    task: dict[str, Any]
    states: list[str] = field(default_factory=list)
    """Without what a subscription begins with, where that was known."""
    text: str = ""

    async def until(self, *states: str) -> str:
        """Follow it to one of these states; return that."""
        while True:
            try:
                async for update in self._updates():
                    self._take(update)
                    if self.states[-1] in {*states, *OVER}:
                        return self.states[-1]
            except AWAY:
                await eventually(self._is_back, timeout_s=120)

    async def read(self) -> dict[str, Any]:
        """The task as it is."""

        async def there() -> dict[str, Any] | None:
            try:
                answer = await self.http.get(f"{self.agent}/tasks/{self.task['id']}")
                answer.raise_for_status()
            except AWAY:
                return None
            task: dict[str, Any] = answer.json()
            return task

        task: dict[str, Any] = await eventually(there, timeout_s=120)
        return task

    async def _is_back(self) -> bool:
        return bool(await self.read())

    async def _updates(self) -> AsyncIterator[dict[str, Any]]:
        task = await self.read()
        if state_of(task) in OVER:
            yield {"task": task}
            return
        async with self.http.stream("POST", f"{self.agent}/tasks/{task['id']}:subscribe", json={}) as stream:
            if stream.status_code == httpx.codes.BAD_REQUEST:  # over since
                yield {"task": await self.read()}
                return
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def _take(self, update: dict[str, Any]) -> None:
        if "artifactUpdate" in update:
            change = update["artifactUpdate"]
            said = text_of(change["artifact"])
            self.text = self.text + said if change.get("append") else said
            return
        found = update.get("task") or update["statusUpdate"]
        if "task" in update and found.get("artifacts"):
            self.text = text_of(found["artifacts"][0])
        state = state_of(found)
        if "statusUpdate" in update or not self.states or self.states[-1] != state:
            self.states.append(state)


def state_of(found: dict[str, Any]) -> str:
    return str(found["status"]["state"]).removeprefix("TASK_STATE_")


def text_of(artifact: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in artifact["parts"])


async def send(http: httpx.AsyncClient, agent: str, text: str, message_id: str, **fields: str) -> FollowedRun:
    """Send a message, again and again while the gateway is away: it counts once."""
    message = {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **fields}
    body = {"message": message, "configuration": {"returnImmediately": True}}

    async def taken() -> dict[str, Any] | None:
        try:
            answer = await http.post(f"{agent}/message:send", json=body)
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            return None
        assert answer.is_success, answer.text
        task: dict[str, Any] = answer.json()["task"]
        return task

    return FollowedRun(http, agent, await eventually(taken, timeout_s=120))


@dataclass
class House:
    """Who takes part: alice asks, bob decides, something kills a service."""

    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    stub: StubEndpoint
    kill: Kill


async def answered(house: House, name: str) -> FollowedRun:
    """SUBMITTED, WORKING, COMPLETED, with an artifact that grows."""
    with house.stub.acting("slow"):
        task = await send(house.alice, "/a2a/workflows/rag", f"What do the documents say about {name}?", name)
        await task.until("WORKING")
        await house.kill()
        assert await task.until("COMPLETED") == "COMPLETED"
    assert task.text == text_of((await task.read())["artifacts"][0])
    return task


async def failed(house: House, name: str) -> FollowedRun:
    """WORKING, FAILED."""
    with house.stub.acting("401"):
        task = await send(house.alice, "/a2a/workflows/rag", f"What do the documents say about {name}?", name)
        await house.kill()
        assert await task.until("FAILED") == "FAILED"
    return task


async def asked(house: House, name: str) -> FollowedRun:
    """INPUT_REQUIRED, WORKING, COMPLETED: the answer is a message, and counts once."""
    task = await send(house.alice, "/a2a/workflows/choose", '{"roles": []}', name)
    await task.until("INPUT_REQUIRED")
    await house.kill()
    assert await task.until("INPUT_REQUIRED") == "INPUT_REQUIRED"
    await send(house.alice, task.agent, '{"supplier": "North"}', f"{name}-answer", taskId=task.task["id"])
    await house.kill()
    assert await task.until("COMPLETED") == "COMPLETED"
    (part,) = (await task.read())["artifacts"][0]["parts"]
    assert part["data"] == {"supplier": "North", "how": "answered"}
    events = await session_events(house.alice, task.task["contextId"])
    assert [one["data"].get("change") for one in events].count("run_question_answered") == 1
    return task


async def cancelled(house: House, name: str) -> FollowedRun:
    """INPUT_REQUIRED, CANCELED."""
    task = await send(house.alice, "/a2a/workflows/choose", '{"roles": []}', name)
    await task.until("INPUT_REQUIRED")
    await house.kill()

    async def is_asked_to_stop() -> bool:
        try:
            answer = await house.alice.post(f"{task.agent}/tasks/{task.task['id']}:cancel", json={})
        except httpx.TransportError:
            return False
        return answer.is_success or state_of(await task.read()) in OVER

    await eventually(is_asked_to_stop, timeout_s=120)
    assert await task.until("CANCELED") == "CANCELED"
    return task


async def approved(house: House, name: str) -> FollowedRun:
    """AUTH_REQUIRED, WORKING, COMPLETED: people decide elsewhere."""
    task = await decided(house, name, "approve")
    assert await task.until("COMPLETED") == "COMPLETED"
    return task


async def rejected(house: House, name: str) -> FollowedRun:
    """AUTH_REQUIRED, WORKING, FAILED with their reason: people reject what the workflow needs."""
    task = await decided(house, name, "reject")
    assert await task.until("FAILED") == "FAILED"
    assert REASON in text_of((await task.read())["status"]["message"])
    return task


async def decided(house: House, name: str, decision: str) -> FollowedRun:
    """AUTH_REQUIRED, and a decision, each before a kill."""
    question = {"query": f"What do the documents say about {name}?"}
    with house.stub.acting("ok"):
        task = await send(house.alice, "/a2a/workflows/announce", json.dumps(question), name)
        assert await task.until("AUTH_REQUIRED") == "AUTH_REQUIRED"
    await house.kill()
    message = (await task.read())["status"]["message"]
    (approval,) = next(part["data"] for part in message["parts"] if "data" in part)["approvals"]

    async def is_decided() -> bool:
        try:
            found = (await house.bob.get(f"/v1/approvals/{approval['approval_id']}")).raise_for_status().json()
            body = {"decision": decision, "reason": REASON, "content_hash": found["content_hash"]}
            answer = await house.bob.post(f"{approval['decide_at']}/decision", json=body)
        except AWAY:
            return False
        return answer.is_success or answer.status_code == httpx.codes.CONFLICT

    await eventually(is_decided, timeout_s=120)
    await house.kill()
    return task


async def refused(house: House, name: str) -> None:
    """No task: an input that the workflow does not take is an error, during an outage, too, and again after it."""
    killing = asyncio.create_task(house.kill())
    await asyncio.sleep(0)  # it sends the signal
    message = {"messageId": name, "role": "ROLE_USER", "parts": [{"text": '{"roles": "all"}'}]}

    async def answer() -> httpx.Response | None:
        try:
            answer = await house.alice.post("/a2a/workflows/choose/message:send", json={"message": message})
        except httpx.TransportError:
            return None
        return answer if answer.status_code < 500 else None

    for _ in range(2):
        found: httpx.Response = await eventually(answer, timeout_s=120)
        assert found.status_code == httpx.codes.BAD_REQUEST, found.text
        assert "roles" in found.text
    await killing


Transition: TypeAlias = Callable[[House, str], Coroutine[Any, Any, FollowedRun]]
ORDERS: dict[Transition, str] = {
    answered: "SUBMITTED WORKING COMPLETED",
    asked: "SUBMITTED WORKING INPUT_REQUIRED WORKING COMPLETED",
    cancelled: "SUBMITTED WORKING INPUT_REQUIRED WORKING CANCELED",
    approved: "SUBMITTED WORKING AUTH_REQUIRED WORKING COMPLETED",
    rejected: "SUBMITTED WORKING AUTH_REQUIRED WORKING FAILED",
    failed: "SUBMITTED WORKING FAILED",
}
"""What may be seen, in this order; a client that was cut off misses some."""


def is_within(seen: list[str], order: list[str]) -> bool:
    """Whether `seen` has nothing that `order` has not, nor otherwise."""
    left = iter(order)
    return all(state in left for state in seen)


@pytest.fixture
async def house(llm_fleet: Fleet, stub_llm: StubEndpoint) -> AsyncIterator[House]:
    killed = itertools.cycle(SERVICES)

    async def kill() -> None:
        await llm_fleet.kill(next(killed))

    async with llm_fleet.client("alice") as alice, llm_fleet.client("bob") as bob:
        alice.headers.update({"A2A-Version": "1.0"})
        yield House(alice, bob, stub_llm, kill)


async def runs_of(fleet: Fleet, message_id: str) -> int:
    return len(await query(fleet, "SELECT 1 FROM flotilla.runs WHERE metadata ->> 'a2a_message_id' = $1", message_id))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("transition", ORDERS, ids=lambda transition: transition.__name__)
async def test_every_transition_of_a_task_survives_the_death_of_any_service(
    llm_fleet: Fleet, house: House, transition: Transition
) -> None:
    for number in range(len(SERVICES)):
        name = f"{transition.__name__}-{number}"
        task = await transition(house, name)
        assert is_within(task.states, ORDERS[transition].split()), (name, task.states)
        assert await runs_of(llm_fleet, name) == 1, name


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_refused_message_makes_no_task_while_services_die(llm_fleet: Fleet, house: House) -> None:
    for number in range(len(SERVICES)):
        await refused(house, f"refused-{number}")
        assert await runs_of(llm_fleet, f"refused-{number}") == 0


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_task_and_background_response_are_fetched_after_a_restart_of_everything(
    llm_fleet: Fleet, stub_llm: StubEndpoint
) -> None:
    headers = {"A2A-Version": "1.0"}
    with stub_llm.acting("slow"):
        async with llm_fleet.client("alice") as alice:
            alice.headers.update(headers)
            body = {"model": "flotilla/rag", "input": "What do the documents say about restarts?", "background": True}
            response = (await alice.post("/openai/v1/responses", json=body)).raise_for_status().json()
            task = await send(alice, "/a2a/workflows/choose", '{"roles": []}', "restart")
            await task.until("INPUT_REQUIRED")
        llm_fleet.down()
        llm_fleet.up()
        async with llm_fleet.client("alice") as alice:
            alice.headers.update(headers)

            async def ended() -> dict[str, Any] | None:
                found = (await alice.get(f"/openai/v1/responses/{response['id']}")).json()
                return found if found.get("status") not in ("queued", "in_progress") else None

            assert (await eventually(ended, timeout_s=180))["status"] == "completed"
            again = FollowedRun(alice, task.agent, task.task)
            assert await again.until("INPUT_REQUIRED") == "INPUT_REQUIRED"
            await send(alice, task.agent, '{"supplier": "North"}', "restart-answer", taskId=task.task["id"])
            assert await again.until("COMPLETED") == "COMPLETED"
