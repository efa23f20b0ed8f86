"""The events of one run as a client follows them: live entries and session events, until it is done.

Each event's id is `<redis id>;<seq>`: the newest live entry and the newest session event that the client has. Any
replica can go on from there. Live entries may be lost with Redis; session events come from the log, each once.
"""

import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import structlog
from sse_starlette import ServerSentEvent

from flotilla.contracts.envelope import decode_event
from flotilla.contracts.errors import Invalid, NotFound, RetryLater
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla.encryption import may_hold_sealed_token, opened_token
from flotilla.postgres import AWAY, reading_cipher
from gateway.live.admission import CHECK_EVERY_S, StreamAccessCheck
from gateway.live.feed import BEGINNING
from gateway.live.wakeup import FollowerWakeup
from gateway.runs.records import FollowedRun, load_followed_run
from gateway.services import GatewayServices

MAX_SEQ = 2**62
_EVENT_ID = re.compile(r"([0-9]{1,19}-[0-9]{1,19});([0-9]{1,19})")
_SHOWN = ("token", "reset", "step")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """What the client has."""

    entry_id: str = BEGINNING
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.entry_id};{self.seq}"


def read_stream_position(last_event_id: str | None) -> StreamPosition:
    """The position that `Last-Event-ID` names; the beginning without one.

    Raises:
        Invalid: it is not the id of a run's event.
    """
    if not last_event_id:
        return StreamPosition()
    match = _EVENT_ID.fullmatch(last_event_id)
    if match is None or int(match[2]) > MAX_SEQ:
        raise Invalid("Last-Event-ID: give the id of the last event that was received, unchanged")
    return StreamPosition(match[1], int(match[2]))


async def stream_run_events(
    services: GatewayServices,
    tenant_id: str,
    run: FollowedRun,
    start: StreamPosition,
    admission: StreamAccessCheck,
    *,
    statuses: bool = False,
) -> AsyncIterator[ServerSentEvent]:
    """The run's events after `start`; ends after `done`, when the caller may no longer read, or the gateway stops.

    With `statuses` there is an event `status` where an open run's changes, too.
    """
    first = replace(start, seq=max(start.seq, run.first_seq - 1))
    follower = _Follower(services, tenant_id, run, first, admission, statuses=statuses)
    with ExitStack() as stack:
        stack.enter_context(services.streams.hold(tenant_id))
        stack.enter_context(services.feed.notify_of_entries(run.live, follower.wakeup))
        stack.enter_context(services.watch.notify_of_changes(tenant_id, run.run_id, follower.wakeup))
        async for event in follower.events():
            if not await admission.may_read():
                return
            yield event


class _Follower:
    def __init__(
        self,
        services: GatewayServices,
        tenant_id: str,
        run: FollowedRun,
        start: StreamPosition,
        admission: StreamAccessCheck,
        *,
        statuses: bool,
    ) -> None:
        self.wakeup = FollowerWakeup()
        self._admission = admission
        self._services = services
        self._tenant_id = tenant_id
        self._store = services.event_store(tenant_id)
        self._run = run
        self._position = start
        self._run_finished = False
        self._shows_statuses = statuses
        self._status = run.status

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        while not self._services.stopping.is_set():
            pending = await self.wakeup.wait(CHECK_EVERY_S)
            if pending.access:
                self._admission.recheck_now()
            if not await self._admission.may_read():
                return
            try:
                if pending.live:
                    async for event in self._live():
                        yield event
                async for event in self._from_log(look=pending.log or pending.end):
                    yield event
                    if event.event == "done":
                        return
            except (RetryLater, *AWAY, TimeoutError) as error:
                log.warning("run_events_wait", run_id=self._run.run_id, error=str(error) or type(error).__name__)
                self.wakeup.notify(log=True, end=True)
                await self._services.sleep_or_stop()
            except NotFound:  # its access was taken away meanwhile
                return

    async def _live(self) -> AsyncIterator[ServerSentEvent]:
        while entries := await self._services.feed.read(self._run.live, self._position.entry_id):
            cipher = None
            if any(may_hold_sealed_token(entry.data) for entry in entries):
                cipher = await reading_cipher(self._services.pool, self._tenant_id, self._run.session_id)
            for entry in entries:
                self._position = replace(self._position, entry_id=entry.entry_id)
                if entry.kind in _SHOWN:
                    yield self._event(entry.kind, opened_token(cipher, entry.data, self._run.live))

    async def _from_log(self, *, look: bool) -> AsyncIterator[ServerSentEvent]:
        """Session events, then `done` once the run is over. The status is read first: what it says is in the log."""
        if not look:
            return
        run = await load_followed_run(self._services.pool, self._tenant_id, self._run.run_id)
        over = run.status not in OPEN_RUN_STATUSES
        if self._shows_statuses and run.status != self._status and not over:
            yield self._event("status", run.status.encode())
        self._status = run.status
        async for event in self._session_events():
            yield event
        if over:
            async for event in self._live():  # tokens that were written before the end
                yield event
            yield self._event("done", b'{"status":"%s"}' % run.status.encode())

    async def _session_events(self) -> AsyncIterator[ServerSentEvent]:
        if self._run_finished:
            return
        while True:
            page = await self._store.read_page(self._run.session_id, self._position.seq + 1)
            for seq, body in enumerate(page.bodies, start=page.first_seq):
                self._position = replace(self._position, seq=seq)
                event = decode_event(body)
                if event.runid != self._run.run_id:
                    continue
                yield self._event("session_event", body)
                if event.data.get("change") == "run_finished":
                    self._run_finished = True
                    return
            if page.next_seq > page.head_seq:
                return

    def _event(self, kind: str, data: bytes) -> ServerSentEvent:
        return ServerSentEvent(data=data.decode(), event=kind, id=str(self._position), sep="\n")
