"""What a call may use is never estimated below what is sent."""

import json
from typing import Any

import pytest

from flotilla.contracts.errors import Invalid
from flotilla.llm.budget import estimate_call_tokens
from flotilla.llm.chat_request import parse_chat_request

SAID = [{"role": "user", "content": "hello"}]
LONG = {"name": "x" * 100_000}


@pytest.mark.parametrize(
    "members",
    [
        {"response_format": {"type": "json_schema", "json_schema": LONG}},
        {"functions": [LONG]},
        {"extra": LONG["name"]},
    ],
)
def test_all_that_is_sent_counts(members: dict[str, Any]) -> None:
    asked = {"messages": SAID, "max_tokens": 1}
    assert (
        estimate_call_tokens(parse_chat_request({**asked, **members}))
        >= estimate_call_tokens(parse_chat_request(asked)) + 25_000
    )


@pytest.mark.parametrize("content", [5, True, {"type": "image_url"}, [5]])
def test_content_of_any_form_can_be_estimated(content: object) -> None:
    assert (
        estimate_call_tokens(parse_chat_request({"messages": [{"role": "user", "content": content}], "max_tokens": 7}))
        >= 7
    )


def test_a_body_that_is_nested_too_deep_is_refused() -> None:
    body = json.loads('{"messages": [{"role": "user", "content": "hello"}], "x": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(Invalid, match="nested"):
        parse_chat_request(body)
