"""Work that an endpoint makes: it grows with the answer's size, whatever the answer is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flotilla.llm.answer_body import stream_documents
from flotilla.llm.answer_calls import repair_arguments
from tests.support.work import assert_linear


@pytest.mark.parametrize("unit", [" ", '\\"', "\\", '"', ",", ", ", "```", "` "])
def test_arguments_that_are_not_json_cost_what_they_are_long(unit: str) -> None:
    assert_linear(repair_arguments, lambda n: '{"a": "b", ' + unit * (n // len(unit)) + "x}")
    assert_linear(repair_arguments, lambda n: '{"a": "' + unit * (n // len(unit)))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('```json\n{"a": 1,}\n```', '{"a": 1}'),
        ('``` {"a": "x, }"}', '{"a": "x, }"}'),
        ('{"a": "\\", }", }', '{"a": "\\", }"}'),
        ('{"a": 1, "b', '{"a": 1, "b'),
    ],
)
def test_known_flaws_are_read_as_what_they_mean(text: str, meant: str) -> None:
    assert repair_arguments(text) == meant


def test_a_body_that_begins_with_blanks_costs_what_it_is_long() -> None:
    async def read(size: int) -> None:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(size // 100):
                yield b" " * 100
            yield b"{}"

        assert [document.value async for document in stream_documents(body(), "")] == [{}, "[DONE]"]

    assert_linear(lambda size: asyncio.run(read(size)), int)
