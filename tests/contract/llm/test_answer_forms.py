"""Answers in the forms that endpoints give them: text, tool calls, counts and log probabilities are the same."""

import json
from typing import Any

import pytest

from flotilla.contracts.tasks import TokenUsage
from tests.contract.llm.asking import ANSWER, JSON, PIECES, answer_to, asked
from tests.support.scripted_endpoint import (
    ScriptedEndpoint,
    call,
    chunk,
    events,
    finished,
)


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
        ({"choices": {"delta": {"content": ANSWER}, "finish_reason": "stop"}}, finished()[1]),
        ({"choices": [{"delta": ANSWER}]}, *finished()),
        (chunk([{"type": "text", "text": {"value": ANSWER}}]), *finished()),
        (*[{"choices": [{"index": "0", "delta": {"content": piece}}]} for piece in PIECES], *finished()),
        (
            *PIECES,
            {"choices": [{"delta": {}, "message": {"content": ANSWER}, "finish_reason": "stop"}]},
            finished()[1],
        ),
        (chunk(reasoning_details=[{"type": "reasoning.text", "text": "I wonder."}]), *PIECES, *finished()),
        ("<seed:think>I guess</seed:think>", *PIECES, *finished()),
        ("◁think▷I guess◁/think▷", *PIECES, *finished()),
        ("<|channel|>analysis<|mess", "age|>I guess<|end|><|channel|>final<|message|>", *PIECES, *finished()),
        (*[chunk(piece, finish="null") for piece in PIECES], *finished()),
        (*PIECES, {"choices": [{"delta": {}, "native_finish_reason": "STOP"}]}, finished()[1]),
        ({"error": None, **chunk("")}, *PIECES, *finished()),
        PIECES,
    ],
)
async def test_an_answer_in_any_form_is_the_same_answer(documents: tuple[Any, ...]) -> None:
    completion = await answer_to(*documents)
    assert completion.text == ANSWER
    assert completion.finish_reason == "stop"
    assert completion.usage.output_tokens > 0


@pytest.mark.parametrize("number", [1, -1, "1"])
async def test_an_endpoint_may_count_alternatives_from_another_number(number: Any) -> None:
    pieces = [{"choices": [{"index": number, "delta": {"content": piece}}]} for piece in PIECES]
    last = {"choices": [{"index": number, "delta": {}, "finish_reason": "stop"}]}
    assert (await answer_to(*pieces, last)).text == ANSWER


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
        ([call("search", REFUND, index=0, id="a"), call("search", APPROVE, index=1, id="a")], BOTH),
        ([call("search", REFUND, index=0, id="a"), call("search", REFUND, index=1, id="a")], SEARCHED),
        ([call("search", "", index=0, id="a"), call(None, REFUND, index="0")], SEARCHED),
        ([call("search", '{"que', id="a"), call(None, 'ry": "refund"}', id="b")], SEARCHED),
        ([call("search", "{}", index=0, id="a"), call(None, REFUND, index=0)], SEARCHED),
        ([call("search", REFUND, index=0, id=7)], SEARCHED),
        ([call("functions.search", REFUND, index=0, id="a")], SEARCHED),
        ([call(" search\n", REFUND, index=0, id="a")], SEARCHED),
        ([chunk(tool_calls={"index": 0, "function": {"name": "search", "arguments": REFUND}})], SEARCHED),
        ([chunk(tool_calls=[{"index": 0, "name": "search", "arguments": REFUND}])], SEARCHED),
        ([call("search", REFUND, index=0, id="a"), chunk(tool_calls=[{"index": 1, "id": "b"}])], SEARCHED),
        ([call("search", '{"query": "refund", }', index=0)], SEARCHED),
        ([call("search", '{"query": "a, }", "of": [1,],}', index=0)], [("search", {"query": "a, }", "of": [1]})]),
        ([call("search", "{'query': 'refund'}", index=0)], SEARCHED),
        ([call("search", json.dumps(REFUND), index=0)], SEARCHED),
        ([call("search", f"```json\n{REFUND}\n```", index=0)], SEARCHED),
        ([call("search", '{"query": "a\nb"}', index=0)], [("search", {"query": "a\nb"})]),
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


COUNTED = {"prompt_tokens": 20, "completion_tokens": 7}


@pytest.mark.parametrize(
    ("documents", "output_tokens"),
    [
        (finished(usage={"prompt_tokens": "20", "completion_tokens": "7"}), 7),
        (finished(usage={"input_tokens": 20, "output_tokens": 7}), 7),
        (({"choices": [{"delta": {}, "finish_reason": "stop", "usage": COUNTED}]},), 7),
        (({**chunk(finish="stop"), "x_groq": {"usage": COUNTED}},), 7),
        (finished(usage={**COUNTED, "total_tokens": 527}), 507),
    ],
)
async def test_tokens_are_counted_wherever_the_endpoint_says_them(documents: Any, output_tokens: int) -> None:
    """The last one counts its reasoning only in the total, and charges for it."""
    usage = (await answer_to(*PIECES, *documents)).usage
    assert usage == TokenUsage(input_tokens=20, output_tokens=output_tokens)


@pytest.mark.parametrize(
    "named",
    [
        {"prompt_tokens_details": {"cached_tokens": 10}},
        {"prompt_cache_hit_tokens": 10},
        {"cached_tokens": 10},
        {"cache_read_input_tokens": 10},
    ],
)
async def test_cached_tokens_are_known_by_each_name(named: dict[str, Any]) -> None:
    assert (await answer_to(*PIECES, *finished(usage={**COUNTED, **named}))).cached_input_tokens == 10


async def test_numbers_with_hundreds_of_digits_are_no_counts_and_no_probabilities() -> None:
    huge = 10**400
    assert (await answer_to(with_logprob(ANSWER, huge), *finished())).logprobs == (0.0,)
    usage = (await answer_to(*PIECES, *finished(usage={"prompt_tokens": huge, "completion_tokens": 7}))).usage
    assert (usage.input_tokens, usage.output_tokens) == (10**9, 7)


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
    cut_off = (
        "MAX_TOKENS",
        "FinishReason.MAX_TOKENS",
        {"type": "max_tokens"},
        "model_context_window_exceeded",
        "pause_turn",
    )
    for reason in ("length", "max_tokens", *cut_off):
        completion = await answer_to("Marta may approve up to 500. Above that, ", *finished(reason))
        assert (completion.finish_reason, completion.text[:5]) == ("length", "Marta")


async def test_a_refusal_is_marked() -> None:
    completion = await answer_to(chunk(refusal="I can't "), chunk(refusal="help with that."), *finished())
    assert (completion.finish_reason, completion.text) == ("refusal", "I can't help with that.")
    parts = chunk([{"type": "refusal", "refusal": "I can't."}])
    assert (await answer_to(parts, *finished())).finish_reason == "refusal"
