"""`flotilla doctor --llm` finds the settings with which an endpoint answers."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flotilla.config import LlmSettings
from flotilla.llm import create_model
from flotilla.llm.probe import ProbeResult, probe_endpoint, suggest_settings
from flotilla.runtime.health import http_server
from tests.contract.llm.test_dialects import FULL
from tests.support.scripted_endpoint import call, chunk, events, finished

FLOTILLA = Path(sys.executable).with_name("flotilla")


@asynccontextmanager
async def picky_endpoint(refused: Collection[str], *, counts: bool = True) -> AsyncIterator[str]:
    """Its base URL. It refuses every request with one of these fields, streams, and answers the rest."""

    async def answer(request: Request) -> Response:
        body = await request.json()
        if "system" in refused and any(message["role"] == "system" for message in body["messages"]):
            return refusal("system messages are not supported")
        for field in refused:
            if field in body and body[field] is not False:
                return refusal(f"Unknown field {field}")
        return written(body, counts=counts)

    app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=0).serving() as port:
        yield f"http://127.0.0.1:{port}/v1"


def refusal(message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status_code=400)


def written(body: dict[str, Any], *, counts: bool) -> Response:
    if not body.get("stream"):
        return JSONResponse({"choices": [{"message": {"content": "ready"}, "finish_reason": "stop"}]})
    text = chunk('{"ready": true}' if body.get("response_format") else "ready")
    if body.get("logprobs"):
        text["choices"][0]["logprobs"] = {"content": [{"token": "ready", "logprob": -0.1}]}
    said = call("current_time", '{"zone": "UTC"}', id="a") if offers_tool(body) else text
    usage = {} if counts and body.get("stream_options") else {"usage": None}
    return Response(b"".join(events(said, finished()[0], {**finished()[1], **usage})), media_type="text/event-stream")


def offers_tool(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def settings(url: str, **variables: str) -> LlmSettings:
    return LlmSettings.model_validate({"OPENAI_BASE_URL": url, "llm_model": "m", **variables})


async def found_at(url: str) -> list[ProbeResult]:
    return [one async for one in probe_endpoint(settings(url))]


async def test_the_default_settings_fit_an_endpoint_that_knows_everything() -> None:
    async with picky_endpoint(()) as url:
        found = await found_at(url)
    assert [one.name for one in found if not one.works] == []
    assert suggest_settings(found) == {}


@pytest.mark.parametrize(
    "refused",
    [
        {"stream_options"},
        {"logprobs"},
        {"max_tokens"},
        {"tools"},
        {"tool_choice"},
        {"temperature"},
        {"seed"},
        {"stop"},
        {"reasoning_effort"},
        {"response_format"},
        {"system"},
        {"stream"},
        {"stream_options", "logprobs", "max_tokens", "tools", "temperature", "system"},
    ],
)
async def test_with_the_settings_that_it_finds_an_endpoint_answers(refused: set[str]) -> None:
    async with picky_endpoint(refused) as url:
        variables = suggest_settings(await found_at(url))
        fitting = {name.removeprefix("FLOTILLA_").lower(): value for name, value in variables.items()}
        model = create_model(settings(url, **fitting))
        completion = await model.complete(FULL)
        await model.close()
    assert variables
    assert completion.text or completion.tool_calls


async def test_an_endpoint_that_is_away_is_asked_nothing_more() -> None:
    found = await found_at("http://127.0.0.1:9/v1")
    assert [(one.works, one.known) for one in found] == [(False, False)]
    assert suggest_settings(found) == {}


async def doctor(url: str, *arguments: str) -> tuple[int, str, str]:
    environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "secret-key", "FLOTILLA_LLM_MODEL": "m"}
    process = await asyncio.create_subprocess_exec(
        str(FLOTILLA),
        "doctor",
        "--llm",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_doctor_prints_the_settings_to_copy() -> None:
    async with picky_endpoint({"stream_options", "logprobs"}) as url:
        code, out, _ = await doctor(url)
        _, document, _ = await doctor(url, "-o", "json")
    assert code == 0
    assert "FLOTILLA_LLM_DIALECT=no_stream_options\nFLOTILLA_LLM_LOGPROBS=false\n" in out
    wanted = {"FLOTILLA_LLM_DIALECT": "no_stream_options", "FLOTILLA_LLM_LOGPROBS": "false"}
    assert json.loads(document)["settings"] == wanted


async def test_the_doctor_names_the_reason_when_nothing_works() -> None:
    code, out, err = await doctor("http://127.0.0.1:9/v1")
    assert code == 1
    assert "no connection to http://127.0.0.1:9/v1" in err
    assert "secret-key" not in out + err
