"""Two requests are the same if everything that decides the answer is."""

from dataclasses import dataclass, make_dataclass, replace

import pytest

from flotilla.llm import ChatMessage, CompletionRequest, ToolSpec, hash_completion_request
from flotilla.llm.chat_request import parse_chat_request

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
    assert hash_completion_request("m", replace(REQUEST, **change)) != hash_completion_request("m", REQUEST)  # type: ignore[arg-type]


def test_another_model_is_another_request() -> None:
    assert hash_completion_request("m", REQUEST) != hash_completion_request("n", REQUEST)


def test_the_order_of_names_in_a_schema_does_not_matter() -> None:
    def asking(parameters: dict[str, object]) -> CompletionRequest:
        return replace(REQUEST, tools=(ToolSpec(name="t", description="", parameters=parameters),))  # type: ignore[arg-type]

    assert hash_completion_request("m", asking({"a": 1, "b": 2})) == hash_completion_request(
        "m", asking({"b": 2, "a": 1})
    )


def test_a_field_that_a_later_version_adds_changes_no_hash_until_it_is_used() -> None:
    later = make_dataclass(
        "Later", [("top_p", float | None, None)], bases=(CompletionRequest,), frozen=True, kw_only=True
    )
    assert hash_completion_request("m", later(messages=REQUEST.messages)) == hash_completion_request("m", REQUEST)
    assert hash_completion_request("m", later(messages=REQUEST.messages, top_p=0.5)) != hash_completion_request(
        "m", REQUEST
    )


def test_text_that_no_encoding_holds_has_a_hash() -> None:
    assert hash_completion_request("m", CompletionRequest(messages=(ChatMessage(role="user", content="\ud800"),)))


def test_of_a_request_with_a_body_the_body_alone_counts_however_it_is_written() -> None:
    def hashed(**fields: object) -> bytes:
        return hash_completion_request(
            "m", parse_chat_request({"messages": [{"role": "user", "content": "why?"}], **fields})
        )

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

    assert hash_completion_request("m", Other(REQUEST.messages)) == hash_completion_request("m", REQUEST)  # type: ignore[arg-type]
