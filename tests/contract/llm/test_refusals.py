"""Answers that are none: what may pass is asked again, the rest ends with the endpoint's words and the right advice."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from flotilla.llm import (
    ModelRefused,
    ModelUnavailable,
)
from tests.contract.llm.asking import JSON, answer_to, asked
from tests.support.scripted_endpoint import (
    ScriptedEndpoint,
    call,
    chunk,
    finished,
)


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (["", *finished()], "wrote an empty answer"),
        ([chunk(content=None), *finished()], "wrote an empty answer"),
        (
            [chunk(reasoning_content="hm " * 50), *finished("length")],
            "still reasoning, without an answer; raise FLOTILLA_LLM",
        ),
        (["<think>hm hm", *finished("length")], "still reasoning, without an answer"),
        ([chunk(reasoning_content="hm"), *finished()], "wrote only its reasoning"),
        ([call("search", '{"query": "re', id="a"), *finished("length")], "cut off inside a tool call"),
        ([chunk(reasoning_details=[{"text": "hm"}]), *finished()], "wrote only its reasoning"),
        (["\u200b\n", *finished()], "wrote an empty answer"),
        (["Marta", *finished("content_filter")], "content filter kept the answer back"),
        (["Marta", *finished("sensitive")], "content filter kept the answer back"),
        (["Marta", *finished("ERROR_TOXIC")], "content filter kept the answer back"),
        ([{"error": {"error": {"message": "inner words", "code": "invalid_api_key"}}}], "with an error: inner words$"),
        ([{"errors": [{"message": "gone", "code": "insufficient_quota"}]}], "gone; the account has no credit left"),
        ([{"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}], "no credit left"),
        (["Marta", {"message": "Not authenticated"}], "Not authenticated"),
        (
            ["Marta", {"error": {"message": "over quota", "code": "insufficient_quota"}}],
            "over quota; the account has no credit",
        ),
        (
            ["Marta", {"error": {"message": "too long", "code": "context_length_exceeded"}}],
            "too long; the prompt does not fit",
        ),
        ([{"error": {"message": "no such model", "type": "invalid_request_error"}}], "no such model"),
        ([{"error": {"message": "bad key", "code": 401}}], "answered 401: bad key; check OPENAI_API_KEY"),
    ],
)
async def test_what_will_not_change_is_never_asked_again(documents: list[Any], reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        await answer_to(*documents)


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (["Marta", {"error": {"message": "overloaded", "type": "overloaded_error"}}], "overloaded"),
        (["Marta", {"error": {"message": "try later", "code": "503"}}], "answered 503: try later"),
        (["Marta", {"error": "something broke"}], "something broke"),
        (["Marta", *finished("error")], "finish_reason 'error'"),
        (["Marta", *finished("network_error")], "finish_reason 'network_error'"),
        (["Marta", *finished("insufficient_system_resource")], "finish_reason 'insufficient_system_resource'"),
        (
            [
                "Marta",
                {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "died"}}]},
            ],
            "502: died",
        ),
        (["Marta", {"status": 503, "message": "upstream gone"}], "503: upstream gone"),
    ],
)
async def test_what_may_pass_is_asked_again(documents: list[Any], reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=reason) as raised:
        await answer_to(*documents)
    assert raised.value.usage is not None or documents[0] != "Marta"


HTML = b"<!doctype html><html><head><title>Sign in</title></head></html>"


@pytest.mark.parametrize(
    ("status", "content_type", "body", "error", "reason"),
    [
        (
            200,
            JSON,
            b'{"error": {"message": "not in your plan", "code": "model_not_allowed"}}',
            ModelRefused,
            "not in your plan",
        ),
        (
            200,
            JSON,
            b'{"object": "error", "message": "no", "code": 404}',
            ModelRefused,
            "404: no; check FLOTILLA_LLM_MODEL",
        ),
        (200, "text/html", HTML, ModelRefused, r"an HTML page \(Sign in\) instead of JSON; check OPENAI_BASE_URL"),
        (200, JSON, b"", ModelRefused, "an empty answer instead of JSON"),
        (200, "text/event-stream", b"", ModelUnavailable, "broke off its answer"),
        (200, "text/event-stream", b"data: " + b"[" * 200_000 + b"\n\n", ModelUnavailable, "broke off its answer"),
        (502, "text/html", HTML, ModelUnavailable, r"502: an HTML page \(Sign in\)"),
        (
            404,
            "text/html",
            HTML,
            ModelRefused,
            r"404: an HTML page \(Sign in\); check FLOTILLA_LLM_MODEL and OPENAI_BASE",
        ),
        (400, JSON, b'{"detail": "Unknown field top_p"}', ModelRefused, "400: Unknown field top_p$"),
        (422, JSON, b'{"detail": [{"msg": "bad"}]}', ModelRefused, "422: .*bad"),
        (400, JSON, b'[{"error": {"message": "listed", "status": "INVALID_ARGUMENT"}}]', ModelRefused, "400: listed"),
        (402, JSON, b'{"error": {"message": "pay"}}', ModelRefused, "402: pay; the account has no credit left"),
        (429, JSON, b'{"error": {"message": "x", "type": "insufficient_quota"}}', ModelRefused, "no credit left"),
        (
            400,
            JSON,
            b'{"error": {"message": "Unsupported: \'max_tokens\'. Use \'max_completion_tokens\' instead."}}',
            ModelRefused,
            "add max_completion_tokens to FLOTILLA_LLM_DIALECT",
        ),
        (
            400,
            JSON,
            b'{"error": {"message": "max_tokens is too large: 100. It supports at most 64"}}',
            ModelRefused,
            "change FLOTILLA_LLM_MAX_OUTPUT_TOKENS",
        ),
        (
            400,
            JSON,
            b'{"error": {"message": "stream_options is not permitted"}}',
            ModelRefused,
            "add no_stream_options",
        ),
        (
            400,
            JSON,
            b'{"message": "\\"auto\\" tool choice requires --enable-auto-tool-choice"}',
            ModelRefused,
            "add no_tools",
        ),
        (400, JSON, b'{"error": {"message": "This model does not support tools"}}', ModelRefused, "add no_tools"),
        (
            400,
            JSON,
            b'{"error": {"message": "temperature must be 1", "param": "temperature"}}',
            ModelRefused,
            "no_temperature",
        ),
        (
            400,
            JSON,
            b'{"error": {"message": "prompt filtered", "code": "content_filter"}}',
            ModelRefused,
            "content filter refused",
        ),
        (
            422,
            JSON,
            b'{"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]}',
            ModelRefused,
            "422: body.logprobs: Extra inputs are not permitted; set FLOTILLA_LLM_LOGPROBS=false",
        ),
        (400, JSON, b'{"error": ["a", {"b": 1}]}', ModelRefused, '400: a; {"b": 1}$'),
        (
            400,
            JSON,
            b'{"error": {"message": "{\\"error\\": {\\"message\\": \\"temperature must be 1\\"}}"}}',
            ModelRefused,
            "400: temperature must be 1; add no_temperature",
        ),
        (
            400,
            JSON,
            json.dumps(
                {"error": {"message": "Provider failed", "metadata": {"raw": '{"detail": "context length"}'}}}
            ).encode(),
            ModelRefused,
            "400: Provider failed: context length; the prompt does not fit",
        ),
        (400, JSON, b'{"error": {"message": "x is not a valid model ID"}}', ModelRefused, "check FLOTILLA_LLM_MODEL$"),
        (400, JSON, b'{"error": {"message": "parallel_tool_calls is unknown"}}', ModelRefused, "no_tool_choice"),
        (400, JSON, b'{"error": {"message": "\\u001b[31mred\\r\\nX: 1"}}', ModelRefused, "400: \ufffd\\[31mred X: 1$"),
        (400, JSON, b'{"error":' * 50 + b"1" + b"}" * 50, ModelRefused, "400: "),
        (
            403,
            "application/xml",
            b"<E><Message>bad token</Message></E>",
            ModelRefused,
            r"an XML document \(bad token\)",
        ),
        (407, "text/plain", b"", ModelRefused, "check FLOTILLA_LLM_PROXY"),
        (499, "text/plain", b"client closed", ModelUnavailable, "499: client closed"),
        (
            500,
            JSON,
            b'{"error": {"message": "no such tool", "type": "invalid_request_error"}}',
            ModelRefused,
            "500: no",
        ),
        (500, JSON, b'{"error": {"message": "exceeds the available context size"}}', ModelRefused, "does not fit"),
        (501, "text/plain", b"", ModelRefused, "501: an empty answer"),
        (413, "text/plain", b"too big", ModelRefused, "413: too big; the prompt is too large"),
        (500, "text/plain", b"\x00\xff\xfe oops", ModelUnavailable, "500: "),
    ],
)
async def test_a_refusal_ends_with_the_endpoints_words_and_the_right_advice(
    status: int, content_type: str, body: bytes, error: type[Exception], reason: str
) -> None:
    endpoint = ScriptedEndpoint([body], status=status, content_type=content_type)
    with pytest.raises(error, match=reason) as raised:
        await asked(endpoint)
    assert len(endpoint.requests) == 1
    assert "\x00" not in str(raised.value)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "20"}, 20.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "Fri, 01 Jan 1999 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "inf"}, None),
        ({}, None),
    ],
)
async def test_the_wait_that_an_endpoint_asks_for_is_known(headers: dict[str, str], wait_s: float | None) -> None:
    endpoint = ScriptedEndpoint([b'{"error": {"message": "slow down"}}'], 429, JSON, headers)
    with pytest.raises(ModelUnavailable) as raised:
        await asked(endpoint)
    assert raised.value.retry_after_s == wait_s


@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_of_any_size_takes_bounded_memory(status: int) -> None:
    endpoint = ScriptedEndpoint([b"data: "] + [b"x" * 1_000_000] * 100, status=status)
    with pytest.raises(ModelRefused, match=r"bytes|400: data: xxx"):
        await asked(endpoint)


async def test_a_rate_limit_that_is_called_a_quota_passes_when_the_endpoint_says() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
    error = {"code": 429, "message": "You exceeded your current quota", "details": [info]}
    with pytest.raises(ModelUnavailable, match="429: You exceeded") as raised:
        await asked(ScriptedEndpoint([json.dumps([{"error": error}]).encode()], 429, JSON))
    assert raised.value.retry_after_s == 37.0


async def test_a_key_that_an_endpoint_repeats_is_not_shown() -> None:
    key, header = "sk-secret-of-the-team", "header-secret-of-the-team"
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}, {header}"}}).encode()
    with pytest.raises(ModelRefused, match=r"provided: \[secret\], \[secret\]; check OPENAI_API_KEY") as raised:
        await asked(
            ScriptedEndpoint([body], 401, JSON),
            openai_api_key=SecretStr(key),
            llm_extra_headers={"X-Key": SecretStr(header)},
        )
    assert key not in str(raised.value)
