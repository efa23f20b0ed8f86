"""Whatever an endpoint says can be stored, and a stored answer is read back equal."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.tasks import TokenUsage
from flotilla.contracts.values import why_not_storable
from flotilla.llm import ChatMessage, Completion, CompletionRequest, ToolRequest
from flotilla.llm.storable_calls import MOST_TOKENS, escape_unsendable, escape_unstorable
from tests.support.anything import texts

answers = st.builds(
    Completion,
    text=texts,
    model=texts,
    usage=st.builds(TokenUsage, input_tokens=st.integers(), output_tokens=st.integers(-(2**70), 2**70)),
    logprobs=st.lists(st.floats(), max_size=3).map(tuple),
    tool_calls=st.lists(st.builds(ToolRequest, call_id=texts, name=texts, arguments=texts), max_size=3).map(tuple),
)


@given(answers)
def test_any_answer_is_stored_and_read_back(answer: Completion) -> None:
    kept = escape_unstorable(answer)
    body = to_json(kept)
    assert b"\\u0000" not in body.replace(b"\\\\", b"")
    assert from_json(body, Completion) == kept
    assert 0 <= kept.usage.input_tokens <= MOST_TOKENS
    assert kept.escaped == (why_not_storable([answer.text, answer.model, _texts_of(answer)]) is not None)


@given(texts)
def test_any_request_can_be_sent(text: str) -> None:
    request = CompletionRequest(messages=(ChatMessage(role="user", content=text),))
    assert escape_unsendable(request).messages[0].content.encode()[:0] == b""
    assert escape_unsendable(replace(request, messages=())).messages == ()


def _texts_of(answer: Completion) -> list[Any]:
    return [[call.call_id, call.name, call.arguments] for call in answer.tool_calls]
