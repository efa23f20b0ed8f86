"""Endpoints that speak OpenAI's API with an accent: what is usable is used, and the rest ends with the right advice."""

import json
from typing import Any

import pytest

from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import (
    ChatMessage,
    Completion,
    CompletionRequest,
    ModelRefused,
    ModelUnavailable,
    ToolSpec,
    create_model,
)
from tests.contract.llm.test_language_models import settings
from tests.support.scripted_endpoint import (
    ScriptedEndpoint,
    call,
    chunk,
    events,
    finished,
    running_endpoint,
)

SEARCH = ToolSpec(name="search", description="Search.", parameters={"type": "object"})
SEND = ToolSpec(name="send", description="Send.", parameters={"type": "object"})
QUESTION = ChatMessage(role="user", content="Who may approve a refund?")
REQUEST = CompletionRequest(messages=(QUESTION,), tools=(SEARCH, SEND), max_tokens=100)
ANSWER = "Marta Quill may approve a refund [1]."
PIECES = ("Marta Quill ", "may approve ", "a refund [1].")
JSON = "application/json"


async def asked(
    endpoint: ScriptedEndpoint, request: CompletionRequest = REQUEST, **changed: Any
) -> tuple[Completion, str]:
    """The answer, and the text that was streamed."""
    pieces: list[str] = []

    async def on_token(piece: str) -> None:
        pieces.append(piece)

    async with running_endpoint(endpoint):
        model = create_model(settings(endpoint.url).model_copy(update=changed))
        try:
            return await model.complete(request, on_token), "".join(pieces)
        finally:
            await model.close()


async def answer_to(*documents: Any, **changed: Any) -> Completion:
    completion, streamed = await asked(ScriptedEndpoint(events(*documents)), **changed)
    assert streamed == completion.text or completion.finish_reason == "refusal"
    return completion


@pytest.mark.parametrize(
    "documents",
    [
        (*PIECES, *finished()),
        ({"choices": [], "prompt_filter_results": [{}]}, *PIECES, *finished()),
        ({"choices": None}, *PIECES, *finished()),
        ({"id": "no choices at all"}, *PIECES, *finished()),
        (*PIECES, {"choices": [{"delta": None, "finish_reason": "stop"}]}, finished()[1]),
        (*PIECES, {"choices": [{"finish_reason": "stop"}]}, finished()[1]),
        (chunk(role="assistant", content=None), *PIECES, *finished()),
        (chunk([{"type": "text", "text": ANSWER}]), *finished()),
        (chunk([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": ANSWER}]), *finished()),
        (chunk({"type": "text", "text": ANSWER}), *finished()),
        (chunk([ANSWER[:5], ANSWER[5:]]), *finished()),
        (chunk(reasoning_content="I wonder."), *PIECES, *finished()),
        (chunk(reasoning="I wonder."), *PIECES, *finished()),
        ("<think>", "I guess ", "[1].", "</think>\n\n", *PIECES, *finished()),
        ("\n<thi", "nk>I guess</th", "ink>", *PIECES, *finished()),
        ("<thinking>I guess</thinking>\n", *PIECES, *finished()),
        ("[THINK]I guess[/THINK]", *PIECES, *finished()),
        (*PIECES, *finished("eos")),
        (*PIECES, *finished("end_turn")),
        (*PIECES, *finished("COMPLETE")),
        (*PIECES, *finished("stop_sequence")),
        (*[chunk(piece, finish="") for piece in PIECES], *finished()),
        ({"choices": [{"index": 1, "delta": {"content": "another alternative"}}]}, *PIECES, *finished()),
        (None, [], "", 7, *PIECES, *finished()),
        ({"choices": [{"text": ANSWER, "finish_reason": "stop"}]}, finished()[1]),
        PIECES,
    ],
)
async def test_an_answer_in_any_form_is_the_same_answer(documents: tuple[Any, ...]) -> None:
    completion = await answer_to(*documents)
    assert completion.text == ANSWER
    assert completion.finish_reason == "stop"
    assert completion.usage.output_tokens > 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b": keep-alive\n\n", b"retry: 3\nid: 1\n\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_may_be_cut_and_framed_in_any_way(end: bytes, prefix: bytes, size: int) -> None:
    body = prefix + b"".join(events("line\u2028separator\x85 ", ANSWER, *finished(), end=end))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    completion, streamed = await asked(ScriptedEndpoint(parts))
    assert completion.text == streamed == f"line\u2028separator\x85 {ANSWER}"


async def test_a_last_event_without_its_blank_line_counts() -> None:
    body = b"".join(events(*PIECES, chunk(finish="stop"), done=False)).rstrip(b"\n")
    assert (await asked(ScriptedEndpoint([body])))[0].text == ANSWER


async def test_an_answer_that_comes_whole_is_used() -> None:
    message = {"role": "assistant", "content": ANSWER}
    body = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
    completion, streamed = await asked(ScriptedEndpoint([json.dumps(body).encode()], content_type=JSON))
    assert completion.text == streamed == ANSWER
    assert completion.usage.input_tokens == 1


SEARCHED = [("search", {"query": "refund"})]
BOTH = [("search", {"query": "refund"}), ("search", {"query": "approve"})]
REFUND, APPROVE = '{"query": "refund"}', '{"query": "approve"}'


@pytest.mark.parametrize(
    ("documents", "calls"),
    [
        ([call("search", "", index=0, id="a"), call(None, REFUND, index=0)], SEARCHED),
        ([call("search", '{"que', index=0, id="a"), call("search", 'ry": "refund"}', index=0, id="a")], SEARCHED),
        ([call("sea", "", index=0, id="a"), call("rch", REFUND, index=0)], SEARCHED),
        ([call("search", {"query": "refund"}, index=0, id="a")], SEARCHED),
        ([call("search", REFUND, index=0, id="a"), call("search", REFUND, index=0, id="a")], SEARCHED),
        ([call("search", REFUND)], SEARCHED),
        ([call("search", REFUND, index=0, id="a"), call("search", APPROVE, index=0, id="b")], BOTH),
        ([call("search", REFUND, id="a"), call("search", APPROVE, id="b")], BOTH),
        ([call("search", REFUND, index=0), call("search", APPROVE, index=0)], BOTH),
        ([call("search", REFUND), call("search", APPROVE)], BOTH),
        ([call("search", REFUND, index=0, id="a"), call("search", APPROVE, index=1, id="a")], BOTH[:1]),
        (
            [
                call("search", "", index=0, id="a"),
                call("search", "", index=1, id="b"),
                call(None, REFUND, index=0),
                call(None, APPROVE, index=1),
            ],
            BOTH,
        ),
        ([call("search", '{"query": "a}b{\\"c"}', id="a")], [("search", {"query": 'a}b{"c'})]),
        ([call("search", None, index=0, id="a")], [("search", {})]),
        ([chunk(function_call={"name": "search", "arguments": REFUND})], SEARCHED),
        (["<tool_call>\n", '{"name": "search", "arguments": ' + REFUND + "}", "\n</tool_call>"], SEARCHED),
        (["[TOOL_CALLS]", '[{"name": "search", "arguments": ' + REFUND + "}]"], SEARCHED),
        (["[TOOL_CALLS]search", REFUND], SEARCHED),
        (["<|python_tag|>", '{"name": "search", "parameters": ' + REFUND + "}"], SEARCHED),
        (['{"name": "sea', 'rch", "arguments": ' + REFUND + "}"], SEARCHED),
        (["```json\n", '{"name": "search", "arguments": ' + REFUND + "}\n```"], SEARCHED),
        (
            ["<think>Search.</think>", '<tool_call>{"name": "search", "arguments": ' + REFUND + "}</tool_call>"],
            SEARCHED,
        ),
        (
            [
                chunk(
                    tool_calls=[None, "x", {"index": 0, "id": "a", "function": {"name": "search", "arguments": REFUND}}]
                )
            ],
            SEARCHED,
        ),
    ],
)
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
async def test_a_tool_call_in_any_form_is_the_same_call(
    documents: list[Any], calls: list[tuple[str, Any]], reason: str
) -> None:
    completion = await answer_to(*documents, *finished(reason))
    assert [(one.name, json.loads(one.arguments)) for one in completion.tool_calls] == calls
    assert len({one.call_id for one in completion.tool_calls}) == len(calls)
    assert completion.text.strip() == ""
    assert completion.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        "<tool_call>no JSON</tool_call> and more",
        '{"name": "Marta", "role": "approver"}',
        "{not a call}",
        "Use <think> tags </think> in the middle.",
        "[1] says so.",
        "a < b, <tool",
        "[TOOL_CALLS] are written like that",
    ],
)
async def test_text_that_only_looks_like_a_call_stays_text(text: str) -> None:
    for size in (1, 3, 1000):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert (await answer_to(*pieces, *finished())).text == text


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 7}, TokenUsage(input_tokens=20, output_tokens=7)),
        ({"prompt_tokens": 20.2, "completion_tokens": 7.0}, TokenUsage(input_tokens=21, output_tokens=7)),
        ({"total_tokens": 27}, TokenUsage(input_tokens=9, output_tokens=18, estimated=True)),
        ({"prompt_tokens": 20}, TokenUsage(input_tokens=20, output_tokens=13, estimated=True)),
        ({"prompt_tokens": 20, "total_tokens": 27}, TokenUsage(input_tokens=20, output_tokens=7, estimated=True)),
        ({}, TokenUsage(input_tokens=9, output_tokens=13, estimated=True)),
        ("many", TokenUsage(input_tokens=9, output_tokens=13, estimated=True)),
        (
            {"prompt_tokens": "x", "completion_tokens": None},
            TokenUsage(input_tokens=9, output_tokens=13, estimated=True),
        ),
        (
            {"prompt_tokens": -3, "completion_tokens": True},
            TokenUsage(input_tokens=9, output_tokens=13, estimated=True),
        ),
        ({"prompt_tokens": float("nan")}, TokenUsage(input_tokens=9, output_tokens=13, estimated=True)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, TokenUsage(input_tokens=9, output_tokens=13, estimated=True)),
    ],
)
async def test_tokens_that_the_endpoint_does_not_count_are_estimated(usage: Any, counted: TokenUsage) -> None:
    assert (await answer_to(*PIECES, *finished(usage=usage))).usage == counted


async def test_a_running_count_counts_once() -> None:
    counted = [
        {**chunk(piece), "usage": {"prompt_tokens": 20, "completion_tokens": n}} for n, piece in enumerate(PIECES, 1)
    ]
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    completion = await answer_to(*counted, *finished(usage=zeros))
    assert completion.usage == TokenUsage(input_tokens=20, output_tokens=3)


def with_logprob(text: str, value: Any) -> dict[str, Any]:
    document = chunk(text)
    document["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": value}]}
    return document


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf"), -9999.0, "x", True])
async def test_log_probabilities_that_say_nothing_are_left_out(value: Any) -> None:
    unknown = value if value is not True else None
    completion = await answer_to(*[with_logprob(piece, unknown) for piece in PIECES], *finished())
    assert completion.logprobs == ()
    known = [with_logprob("Marta ", -0.1), with_logprob("Quill", -0.2), with_logprob("!", unknown)]
    assert (await answer_to(*known, *finished())).logprobs == (-0.1, -0.2)


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {}, [], "x", {"content": [None, 3]}])
async def test_no_log_probabilities_in_any_form(logprobs: Any) -> None:
    document = chunk(ANSWER)
    document["choices"][0]["logprobs"] = logprobs
    assert (await answer_to(document, *finished())).logprobs == ()


async def test_a_cut_off_answer_is_marked() -> None:
    for reason in ("length", "max_tokens", "MAX_TOKENS"):
        completion = await answer_to("Marta may approve up to 500. Above that, ", *finished(reason))
        assert (completion.finish_reason, completion.text[:5]) == ("length", "Marta")


async def test_a_refusal_is_marked() -> None:
    completion = await answer_to(chunk(refusal="I can't "), chunk(refusal="help with that."), *finished())
    assert (completion.finish_reason, completion.text) == ("refusal", "I can't help with that.")


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
        (["Marta", *finished("content_filter")], "content filter kept the answer back"),
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
