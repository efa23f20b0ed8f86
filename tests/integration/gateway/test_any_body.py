"""Bodies of every kind over the wire: taken and given back whole, or refused by a 4xx that names the field."""

import json
import secrets
from collections.abc import Callable
from itertools import product
from typing import Any

import httpx
import pytest

from flotilla.contracts.values import why_not_storable
from tests.support.anything import objects
from tests.support.collected import collected
from tests.support.properties import FULL, examples


def _numbers_alike(text: str) -> Any:
    """JSON with every number as a float: jsonb writes 1e22 as an integer of as many digits."""
    return json.loads(text, parse_int=float)


def wire(value: Any, *, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", errors="surrogatepass")


async def test_any_metadata_is_given_back_whole_or_refused_by_name(operator: httpx.AsyncClient) -> None:
    taken = refused = 0
    for number, value in enumerate(collected(objects, 200 if FULL else 50)):
        session_id = f"s-{secrets.token_hex(4)}"
        body = wire({"session_id": session_id, "metadata": value}, ascii_only=number % 2 == 0)
        answer = await operator.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
        if answer.is_success:
            taken += 1
            shown = await operator.get(f"/v1/sessions/{session_id}")
            assert _numbers_alike(shown.text)["metadata"] == _numbers_alike(json.dumps(value))
        else:
            refused += 1
            assert answer.status_code in {400, 422}, (answer.status_code, answer.text, value)
            assert why_not_storable(value) is not None, (answer.text, value)
    assert taken > 10
    assert refused > 10


ODD_BODIES = [
    b"\xef\xbb\xbf{}",
    b'{"metadata": {"a": NaN}}',
    b'{"metadata": {"a": Infinity}}',
    b'{"metadata": {"a": 1e999}}',
    b'{"metadata": {"a": ' + b"9" * 5000 + b"}}",
    b'{"metadata": {"a": "\\u0000"}}',
    b'{"metadata": {"\\u0000": 1}}',
    b'{"metadata": {"a": "\\ud800"}}',
    b'{"metadata": {"a": "\xed\xa0\x80"}}',
    b'{"metadata": {"a": "\xff\xfe"}}',
    b'{"metadata": {"a": "gr\xf6\xdfer"}}',
    '{"metadata": {"a": "größer"}}'.encode("utf-16"),
    b'{"metadata": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}",
    b'{"metadata": [] }',
    b'{"metadata": null}',
    b'{"metadata": {"a": 1,}}',
    b"\x00",
    b"",
]


async def test_a_body_that_is_odd_is_never_an_error_of_ours(operator: httpx.AsyncClient) -> None:
    for path, body in product(("/v1/sessions", "/v1/tasks", "/v1/actions"), ODD_BODIES):
        answer = await operator.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (path, body, answer.text)
        assert answer.headers["content-type"].startswith("application/")


BORDERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "/v1/tasks": lambda value: {"steps": ["nobody"], "input": value},
    "/v1/actions": lambda value: {"action": "echo", "description": "d", "args": value},
    "/v1/actions?echo": lambda value: {"action": "echo", "description": "d", "args": {"text": json.dumps(value)}},
    "/v1/approvals/none/decisions": lambda value: {"decision": "edit", "content_hash": "0" * 64, "args": value},
    "/v1/orders": lambda value: {"order_id": "o", "items": [value]},
    "/v1/sessions/s/runs": lambda value: {"query": json.dumps(value), "more": value},
}


@pytest.mark.parametrize("path", BORDERS)
async def test_any_value_in_a_body_is_taken_or_refused_by_a_problem(operator: httpx.AsyncClient, path: str) -> None:
    for number, value in enumerate(collected(objects, examples(60))):
        body = wire(BORDERS[path](value), ascii_only=number % 2 == 0)
        answer = await operator.post(path.partition("?")[0], content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (answer.text, value)
        assert "Traceback" not in answer.text
        if not answer.is_success:
            assert answer.json()["code"]


ODD_HEADERS = (
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "größer".encode(),
    b"a" * 9_000,
    b"-1",
    b"1e400",
    b"NaN",
    b"%00",
    b'"',
    b"",
    b"a\tb",
)
HEADERS = (
    *("Idempotency-Key", "traceparent", "tracestate", "Last-Event-ID", "Authorization", "Cookie", "Accept", "Range"),
    *("Content-Type", "If-None-Match", "X-Request-Id", "Flotilla-On-Behalf-Of", "Accept-Language", "Origin"),
)


async def test_an_odd_header_is_never_an_error_of_ours(operator: httpx.AsyncClient) -> None:
    for number, (name, value) in enumerate(product(HEADERS, ODD_HEADERS)):
        headers = [(name.encode(), value)]
        if FULL or number % 2:
            answer = await operator.get("/v1/sessions", headers=headers)
            assert answer.status_code < 500, (name, value, answer.text)
        if FULL or not number % 2:
            answer = await operator.post("/v1/sessions/s/runs", content=b'{"query": "q"}', headers=headers)
            assert answer.status_code < 500, (name, value, answer.text)


ODD_VALUES = ("%00", "%ED%A0%80", "%FF", "\u202e", "%F0%9F%98%80", "1e400", "NaN", "9" * 400, "", "%25", "a/b", "'--")
ODD_PLACES = (
    "/v1/sessions?q=",
    "/v1/sessions?cursor=",
    "/v1/sessions/",
    "/v1/sessions/s1/events?from_seq=",
    "/v1/sessions/s1/state?at_time=",
    "/v1/runs?user_id=",
    "/v1/runs?session_id=",
    "/v1/dead-letters?stream=",
    "/v1/tasks/",
    "/v1/actions/",
    "/v1/approvals?status=",
    "/v1/documents/search?q=",
)


async def test_an_odd_parameter_is_never_an_error_of_ours(operator: httpx.AsyncClient) -> None:
    for place, value in product(ODD_PLACES, ODD_VALUES):
        answer = await operator.get(f"{place}{value}")
        assert answer.status_code < 500, (place, value, answer.text)
