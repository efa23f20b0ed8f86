"""Entries that other languages write a little differently are handled at their first delivery."""

import json

import pytest

from flotilla.bus import Delivery, HandlerResult, Redis, connect_redis
from tests.support.consumers import consuming
from tests.support.waiting import eventually

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "type": "t",
    "source": "/s",
    "subject": "s1",
    "time": "2030-01-01T12:00Z",
    "data": {"text": "größer"},
}
TEXT = json.dumps(EVENT, ensure_ascii=False)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xef\xbb\xbf" + TEXT.encode(), "größer"),
        (TEXT.encode("latin-1"), "größer"),
        (TEXT.replace("12:00Z", "12:00:00Z").encode("latin-1"), "größer"),
        (TEXT.replace('"größer"', "NaN").encode(), "NaN"),
        (TEXT.replace("größer", "a\\u0000b\\ud800").encode(), "a\\u0000b\\ud800"),
        (TEXT.replace("größer", "\\ud83d\\ude00").encode(), "😀"),
    ],
    ids=["byte order mark", "Latin-1", "Latin-1 with seconds", "NaN", "NUL and a lone surrogate", "a pair"],
)
async def test_an_odd_entry_is_handled_at_its_first_delivery(redis_url: str, body: bytes, text: str) -> None:
    seen: list[Delivery] = []

    async def handle(delivery: Delivery) -> HandlerResult:
        seen.append(delivery)
        return HandlerResult()

    async with connect_redis(redis_url) as redis, consuming(redis, "odd", handle):
        await _add(redis, body)
        await eventually(lambda: seen)
    escaped = {"escaped": ["/text"]} if text in {"NaN", "a\\u0000b\\ud800"} else {}
    assert [(one.deliveries, one.event.data) for one in seen] == [(1, {"text": text, **escaped})]


async def _add(redis: Redis, body: bytes) -> None:
    await redis.xadd("odd", {"event": body})
