"""Limits on what one caller may ask of a replica: bodies, nesting, requests, open streams."""

import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from starlette.requests import Request
from starlette.types import Message, Receive

from flotilla.contracts.errors import Invalid
from gateway.problems import TooLarge, TooMany

# Matches wherever a string begins, whether or not it ends, and never goes back: linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+', re.DOTALL)
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]
_NO_BRACKETS = bytes(byte for byte, step in enumerate(_STEPS) if not step)
MAX_BUCKETS = 10_000
STREAM_RETRY_S = 5.0


def limit_body_size(request: Request, max_bytes: int) -> Request:
    """The same request, whose body can't be read beyond `max_bytes`.

    Raises:
        TooLarge: it says itself that it is larger.
    """
    declared = request.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(max_bytes)
    return Request(request.scope, _counted(request.receive, max_bytes))


def _counted(receive: Receive, max_bytes: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise TooLarge(max_bytes)
        return message

    return counted


def check_json_complexity(body: bytes, max_depth: int, max_values: int) -> None:
    """Raises Invalid for JSON that is nested deeper than `max_depth` or has more than `max_values` values, before a
    parser spends time on it: a value of two bytes costs as much as a long text.

    One pass over `body`. For bytes that are not JSON both are right up to where a parser stops at them.
    """
    opening = body.count(b"[") + body.count(b"{")
    if opening <= max_depth and opening + body.count(b",") < max_values:
        return  # most bodies: no need to look closer
    marks = _STRING.sub(b"", body)
    if marks.count(b"[") + marks.count(b"{") + marks.count(b",") >= max_values:
        raise Invalid(f"the body has more than {max_values} values: send fewer, or in several requests")
    brackets = marks.translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth:
        raise Invalid(f"the body is nested deeper than {max_depth} levels: send flatter JSON")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RequestRateLimiter:
    """A token bucket for each caller of one kind: a tenant, a person, an address."""

    def __init__(
        self,
        per_s: float,
        burst: int,
        *,
        what: str = "requests",
        limit: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit` is the setting that is reached, for the answer."""
        self._what = what
        self._limit = limit
        self._per_s = per_s
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str) -> None:
        """Counts one request.

        Raises:
            TooMany: the caller has used up its share; says when to come back.
        """
        now = self._monotonic()
        bucket = self._buckets.setdefault(caller, _Bucket(float(self._burst), now))
        self._buckets.move_to_end(caller)
        bucket.tokens = min(float(self._burst), bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.tokens < 1:
            pause_s = (1 - bucket.tokens) / self._per_s
            raise TooMany(f"more than {self._per_s:g} {self._what} per second", pause_s, limit=self._limit)
        bucket.tokens -= 1
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)


class EventStreamSlots:
    """Open event streams, counted over all tenants and for each."""

    def __init__(self, total: int, per_tenant: int) -> None:
        self._total = total
        self._per_tenant = per_tenant
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, tenant_id: str) -> Iterator[None]:
        """One slot for as long as the block runs; see `check_slot_free`."""
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]

    def check_slot_free(self, tenant_id: str) -> None:
        """Raises TooMany when no slot is left."""
        if self._open[tenant_id] >= self._per_tenant or self._open.total() >= self._total:
            raise TooMany("too many event streams are open: close some, or ask for the run's status", STREAM_RETRY_S)
