"""Two requests are the same if everything that decides the answer is."""

from dataclasses import dataclass, make_dataclass, replace

import pytest

from flotilla.llm import ChatMessage, CompletionRequest, ToolSpec, request_hash
from flotilla.llm.chat_request import chat_request

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="why?"),))


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"max_tokens": 0},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"seed": 0},
        {"stop": ("END",)},
        {"reasoning": "low"},
        {"messages": (ChatMessage(role="system", content="why?"),)},
        {"messages": (ChatMessage(role="user", content="why?", images=("data:,x",)),)},
        {"tools": (ToolSpec(name="t", description="", parameters={}),)},
    ],
)
def test_any_other_field_is_another_request(change: dict[str, object]) -> None:
    assert request_hash("m", replace(REQUEST, **change)) != request_hash("m", REQUEST)  # type: ignore[arg-type]


def test_another_model_is_another_request() -> None:
    assert request_hash("m", REQUEST) != request_hash("n", REQUEST)


def test_the_order_of_names_in_a_schema_does_not_matter() -> None:
    def asking(parameters: dict[str, object]) -> CompletionRequest:
        return replace(REQUEST, tools=(ToolSpec(name="t", description="", parameters=parameters),))  # type: ignore[arg-type]

    assert request_hash("m", asking({"a": 1, "b": 2})) == request_hash("m", asking({"b": 2, "a": 1}))


def test_a_field_that_a_later_version_adds_changes_no_hash_until_it_is_used() -> None:
    later = make_dataclass(
        "Later", [("top_p", float | None, None)], bases=(CompletionRequest,), frozen=True, kw_only=True
    )
    assert request_hash("m", later(messages=REQUEST.messages)) == request_hash("m", REQUEST)
    assert request_hash("m", later(messages=REQUEST.messages, top_p=0.5)) != request_hash("m", REQUEST)


def test_text_that_no_encoding_holds_has_a_hash() -> None:
    assert request_hash("m", CompletionRequest(messages=(ChatMessage(role="user", content="\ud800"),)))


def test_of_a_request_with_a_body_the_body_alone_counts_however_it_is_written() -> None:
    def hashed(**fields: object) -> bytes:
        return request_hash("m", chat_request({"messages": [{"role": "user", "content": "why?"}], **fields}))

    same = [
        hashed(temperature=1, seed=7),
        hashed(seed=7, temperature=1.0),
        hashed(seed=7, temperature=1, stream=True, stream_options={"include_usage": True}, model="default"),
    ]
    assert len(set(same)) == 1
    others = [hashed(), hashed(seed=7), hashed(seed=7, temperature=1, top_k=3), hashed(seed=7, temperature=1.1)]
    assert len({*same, *others}) == 5


def test_types_do_not_matter_their_fields_do() -> None:
    @dataclass(frozen=True)
    class Other:
        messages: object

    assert request_hash("m", Other(REQUEST.messages)) == request_hash("m", REQUEST)  # type: ignore[arg-type]
