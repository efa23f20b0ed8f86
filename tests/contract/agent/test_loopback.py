"""The model of a task for child processes in other languages: over plain HTTP, and from Node."""

import asyncio
import json
import os
import shutil
import sys
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.tasks import ApprovalNeeded
from flotilla.llm import ModelUnavailable
from flotilla.testing import FakeModel, TaskRun, run_task
from tests.contract.agent.test_openai_client import model_at
from tests.support.scripted_endpoint import ScriptedEndpoint, events

NEEDED = ApprovalNeeded(approval_id="a1", action="asker.pay", description="pay", args={}, risk_level="low")
BODY = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hello"}]})
STREAMED = json.dumps({**json.loads(BODY), "stream": True})
_PYTHON = """
import os, sys, urllib.error, urllib.request
path, key, body = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
url = os.environ["FLOTILLA_MODEL_URL"] + "/" + path
request = urllib.request.Request(url, body.encode() or None, headers)
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as refused:
    answer = refused
print(answer.status, answer.read().decode(), sep="\\n")
"""
_NODE = """
const answer = await fetch(process.env.FLOTILLA_MODEL_URL + "/chat/completions", {
  method: "POST",
  headers: { authorization: "Bearer " + process.env.FLOTILLA_MODEL_KEY, "content-type": "application/json" },
  body: JSON.stringify({ model: "default", stream: true, messages: [{ role: "user", content: "hello" }] }),
});
let text = "";
for await (const chunk of answer.body) text += new TextDecoder().decode(chunk);
const events = text.split("\\n\\n").filter(Boolean).map((event) => event.slice(6));
const choices = events.slice(0, -1).flatMap((event) => JSON.parse(event).choices);
console.log(events.at(-1), choices.map((choice) => choice.delta.content ?? "").join(""));
"""


async def said_by(command: list[str], environment: dict[str, str]) -> str:
    """What a child process prints."""
    child = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0, err.decode()
    return out.decode().strip()


async def http(environment: dict[str, str], path: str, body: str | None = None, key: str | None = None) -> Any:
    """Status and body of an answer, as a child without any library gets them."""
    command = [sys.executable, "-c", _PYTHON, path, key or environment["FLOTILLA_MODEL_KEY"], body or ""]
    status, _, text = (await said_by(command, environment)).partition("\n")
    return int(status), text


async def run(work: Any, model: Any) -> TaskRun[Any]:
    agent = Agent("parent")

    @agent.task
    async def task(ctx: TaskContext, _given: dict[str, Any]) -> dict[str, Any]:
        async with ctx.model_endpoint() as environment:
            return {"said": await work(ctx, environment)}

    return await run_task(agent, {}, model=model)


async def test_a_child_asks_the_tasks_model_over_http() -> None:
    async def work(_ctx: TaskContext, environment: dict[str, str]) -> Any:
        return await http(environment, "chat/completions", BODY)

    status, text = (await run(work, FakeModel("hi there"))).result["said"]
    assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, "hi there")


async def test_node_reads_the_answer_as_a_stream() -> None:
    node = shutil.which("node")
    assert node, "Node 20 is a prerequisite of the console's build"

    async def work(_ctx: TaskContext, environment: dict[str, str]) -> str:
        return await said_by([node, "--input-type=module", "--eval", _NODE], environment)

    done = await run(work, FakeModel("hi there"))
    assert (done.result["said"], done.tokens) == ("[DONE] hi there", "hi there")


@pytest.mark.parametrize("key", ["wrong", "", "x" * 10_000])
async def test_another_key_opens_nothing(key: str) -> None:
    model = FakeModel()

    async def work(_ctx: TaskContext, environment: dict[str, str]) -> Any:
        return await http({**environment, "FLOTILLA_MODEL_KEY": key}, "chat/completions", BODY)

    status, text = (await run(work, model)).result["said"]
    assert (status, json.loads(text)["error"]["code"], model.requests) == (401, "invalid_api_key", [])


async def test_the_key_is_worth_nothing_once_the_task_has_ended() -> None:
    kept: list[dict[str, str]] = []

    async def work(_ctx: TaskContext, environment: dict[str, str]) -> None:
        kept.append(environment)

    await run(work, FakeModel())
    with pytest.raises(AssertionError):  # nobody listens
        await http(kept[0], "chat/completions", BODY)


async def test_two_tasks_have_keys_and_ports_of_their_own() -> None:
    async def work(ctx: TaskContext, environment: dict[str, str]) -> Any:
        async with ctx.model_endpoint() as another:
            assert another["FLOTILLA_MODEL_URL"] != environment["FLOTILLA_MODEL_URL"]
            return await http(environment, "models", key=another["FLOTILLA_MODEL_KEY"])

    assert (await run(work, FakeModel())).result["said"][0] == 401


async def test_a_stream_that_breaks_off_ends_with_openais_error() -> None:
    async def work(_ctx: TaskContext, environment: dict[str, str]) -> Any:
        return await http(environment, "chat/completions", STREAMED)

    async with model_at(ScriptedEndpoint(events("Marta ", done=False))) as model:
        status, text = (await run(work, model)).result["said"]
    *_, last = text.strip().split("\n\n")
    assert (status, json.loads(last.removeprefix("data: "))["error"]["code"]) == (200, "unavailable")


async def test_refusals_and_waiting_for_people_have_a_status_that_clients_do_not_try_again() -> None:
    async def work(ctx: TaskContext, environment: dict[str, str]) -> Any:
        unavailable = await http(environment, "chat/completions", BODY)
        unknown = await http(environment, "embeddings", BODY)
        broken = await http(environment, "chat/completions", "{")
        ctx.gated.needed.append(NEEDED)
        waiting = await http(environment, "chat/completions", BODY)
        found.extend(
            (status, json.loads(text)["error"]["code"]) for status, text in (unavailable, unknown, broken, waiting)
        )

    found: list[tuple[int, str]] = []
    done = await run(work, FakeModel(ModelUnavailable("busy", retry_after_s=3)))
    assert found == [(503, "unavailable"), (404, "unsupported"), (400, "refused"), (503, "approval_pending")]
    assert done.failure is not None
    assert done.failure.type == "ApprovalRequired"
