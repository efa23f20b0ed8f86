"""Endpoints that speak OpenAI's API with an accent: what they do not understand is left out."""

from typing import Any

import pytest

from flotilla.llm import (
    ChatMessage,
    CompletionRequest,
    create_model,
)
from tests.contract.llm.asking import ANSWER, PIECES, REQUEST, SEARCH, answer_to, asked
from tests.contract.llm.test_language_models import settings
from tests.support.scripted_endpoint import (
    ScriptedEndpoint,
    events,
    finished,
    running_endpoint,
)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (["Hi \ud83d", "\ude00!"], "Hi \U0001f600!"),
        (["Hi \ud83d", "!"], "Hi \ufffd!"),
        (["Hi \ude00!"], "Hi \ufffd!"),
        (["Hi\x00!"], "Hi\ufffd!"),
        (["Hi \ud83d"], "Hi \ufffd"),
    ],
)
async def test_text_that_no_store_holds_is_replaced(sent: list[str], shown: str) -> None:
    assert (await answer_to(*sent, *finished())).text == shown


async def test_an_answer_that_begins_inside_its_reasoning() -> None:
    completion = await answer_to("I guess", "</think>\n", ANSWER, *finished(), llm_dialect=("begins_with_reasoning",))
    assert completion.text == ANSWER


FULL = CompletionRequest(
    messages=(
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="?", images=("data:,x",)),
    ),
    tools=(SEARCH,),
    tool_choice="search",
    response_format={"type": "json_object"},
    max_tokens=9,
    temperature=0.5,
    seed=4,
    stop=("END",),
    reasoning="low",
)


async def test_the_whole_request_is_sent() -> None:
    endpoint = ScriptedEndpoint(events(*PIECES, *finished()))
    await asked(endpoint, FULL, llm_extra_body={"top_k": 20})
    body = endpoint.requests[0]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "search"}}
    assert body["messages"][1]["content"][1] == {"type": "image_url", "image_url": {"url": "data:,x"}}
    wanted = {
        "response_format": {"type": "json_object"},
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 4,
        "stop": ["END"],
    }
    wanted |= {"reasoning_effort": "low", "top_k": 20, "stream": True}
    assert {name: body[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("word", "absent", "present"),
    [
        ("max_completion_tokens", "max_tokens", {"max_completion_tokens": 9}),
        ("no_stream_options", "stream_options", {"stream": True}),
        ("no_stream", "stream_options", {"stream": False}),
        ("no_tools", "tools", {}),
        ("no_tool_choice", "tool_choice", {}),
        ("no_temperature", "temperature", {}),
        ("no_response_format", "response_format", {}),
        ("no_seed", "seed", {}),
        ("no_stop", "stop", {}),
        ("no_reasoning", "reasoning_effort", {}),
    ],
)
async def test_a_dialect_leaves_out_what_the_endpoint_does_not_understand(
    word: str, absent: str, present: dict[str, Any]
) -> None:
    endpoint = ScriptedEndpoint(events(*PIECES, *finished()))
    await asked(endpoint, FULL, llm_dialect=(word,))
    assert absent not in endpoint.requests[0]
    assert present.items() <= endpoint.requests[0].items()


async def test_an_endpoint_without_system_messages_reads_them_as_the_users() -> None:
    endpoint = ScriptedEndpoint(events(*PIECES, *finished()))
    await asked(endpoint, FULL, llm_dialect=("no_system_role",))
    assert [message["role"] for message in endpoint.requests[0]["messages"]] == ["user", "user"]


async def test_azure_is_asked_for_its_deployment_and_version() -> None:
    endpoint = ScriptedEndpoint(events(*PIECES, *finished()))
    async with running_endpoint(endpoint):
        azure = {"openai_base_url": endpoint.url.removesuffix("/v1"), "llm_azure_api_version": "2026-01-01"}
        model = create_model(settings(endpoint.url).model_copy(update=azure | {"llm_azure_deployment": "gpt-eu"}))
        assert (await model.complete(REQUEST)).text == ANSWER
        await model.close()
    assert endpoint.paths == ["/openai/deployments/gpt-eu/chat/completions?api-version=2026-01-01"]
    assert endpoint.request_headers[0]["api-key"] == "key"
