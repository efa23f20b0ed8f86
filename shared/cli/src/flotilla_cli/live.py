"""A run's live events over SSE, across dropped connections.

Source: WHATWG HTML, "Server-sent events": a client that was cut off asks again with `Last-Event-ID`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from flotilla_cli.errors import CliError
from flotilla_cli.gateway import GatewayClient, error_from_problem, gateway_unreachable_error

GIVE_UP_AFTER_S = 60.0
"""Without a single event or successful connection."""
_SILENCE_S = 45.0
"""The gateway pings every 15 s; three missed ones mean that the connection is dead."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_BUSY = (502, 503, 504)


@dataclass(frozen=True)
class LiveEvent:
    """`token`, `reset`, `step`, `session_event` or `done`; `data` is its JSON."""

    kind: str
    event_id: str
    data: Any


class _Dropped(Exception):
    """The connection ended before the run did."""

    def __init__(self, cause: CliError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RunFollower:
    """Reads one run's events until its `done`."""

    def __init__(self, gateway: GatewayClient, run_id: str, give_up_after_s: float = GIVE_UP_AFTER_S) -> None:
        self._gateway = gateway
        self._run_id = run_id
        self._give_up_after_s = give_up_after_s
        self._last_id = ""
        self._alive_at = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def follow_events(self) -> Iterator[LiveEvent]:
        """All events up to and with `done`; resumes where a dropped connection left off.

        Raises:
            CliError: refused, or no connection for `give_up_after_s`.
        """
        while True:
            try:
                for event in self._one_connection():
                    yield event
                    if event.kind == "done":
                        return
            except _Dropped as dropped:
                self._wait_before_the_next(dropped.cause)

    def _one_connection(self) -> Iterator[LiveEvent]:
        from httpx_sse import EventSource, SSEError

        try:
            with self._connection() as answer:
                for event in EventSource(answer).iter_sse():
                    self._note_alive()
                    self._last_id = event.id or self._last_id
                    yield LiveEvent(event.event, event.id, json.loads(event.data or "null"))
        except (httpx.TransportError, SSEError, ValueError) as error:
            raise _Dropped(_as_cli_error(self._gateway, error)) from error
        raise _Dropped(CliError(f"the gateway closed the stream of run {self._run_id} before the run was done"))

    @contextmanager
    def _connection(self) -> Iterator[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        timeout = httpx.Timeout(_SILENCE_S, connect=5.0)
        path = f"/runs/{self._run_id}/events"
        with self._gateway.client.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                refusal = error_from_problem(answer)
                raise _Dropped(refusal) if answer.status_code in _BUSY else refusal
            yield answer

    def _note_alive(self) -> None:
        self._alive_at = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def _wait_before_the_next(self, cause: CliError) -> None:
        if time.monotonic() - self._alive_at > self._give_up_after_s:
            hint = f"the run goes on; follow it with: flotilla runs events {self._run_id} --follow"
            raise CliError(f"lost the live events of run {self._run_id}: {cause}", hint) from cause
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)


def _as_cli_error(gateway: GatewayClient, error: Exception) -> CliError:
    if isinstance(error, httpx.TransportError):
        return gateway_unreachable_error(gateway.target.url, error)
    return CliError(f"not an event stream: {error}")
