"""The events of one task as a client follows them: those of its session that name it, until it is over."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from sse_starlette import ServerSentEvent

from flotilla.contracts.envelope import AgentEvent, decode_event, to_json
from flotilla.contracts.errors import Invalid, NotFound, RetryLater
from flotilla.postgres import AWAY
from gateway.live.admission import StreamAccessCheck
from gateway.pipelines.records import read_recorded_end
from gateway.schemas.pipelines import Task
from gateway.services import GatewayServices

log = structlog.get_logger(__name__)
MAX_SEQ = 2**62


def read_last_event_id(last_event_id: str | None) -> int:
    """Return the event that `Last-Event-ID` names; 0 without one.

    Raises:
        Invalid: it is not the id of a task's event.
    """
    if not last_event_id:
        return 0
    if not (last_event_id.isascii() and last_event_id.isdecimal()) or int(last_event_id) > MAX_SEQ:
        raise Invalid("Last-Event-ID: give the id of the last event that was received, unchanged")
    return int(last_event_id)


@dataclass(slots=True)
class TaskEventStream:
    """Follows a task; each event's id is its place in the session."""

    services: GatewayServices
    tenant_id: str
    task: Task
    seq: int
    admission: StreamAccessCheck

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Give the task's events after `seq`, then `done`; end early when the caller may no longer read."""
        with self.services.streams.hold(self.tenant_id):
            while not self.services.stopping.is_set() and await self.admission.may_read():
                try:
                    async for event in self._look():
                        yield event
                        if event.event == "done":
                            return
                except (RetryLater, *AWAY, TimeoutError) as error:
                    reason = str(error) or type(error).__name__
                    log.warning("task_events_wait", task_id=self.task.task_id, error=reason)
                except NotFound:  # its access was taken away meanwhile
                    return
                await self.services.sleep_or_stop()

    async def _look(self) -> AsyncIterator[ServerSentEvent]:
        # The row is read first: once it is closed, all of the task's events are in the log.
        status = await read_recorded_end(self.services.pool, self.tenant_id, self.task.task_id)
        async for event in self._new():
            yield event
        if status is not None:
            yield self._event("done", to_json({"status": status}).decode())

    async def _new(self) -> AsyncIterator[ServerSentEvent]:
        store = self.services.event_store(self.tenant_id)
        while True:
            page = await store.read_page(self.task.session_id, self.seq + 1)
            for seq, body in enumerate(page.bodies, start=page.first_seq):
                self.seq = seq
                if self._is_of_task(decode_event(body)):
                    yield self._event("session_event", body.decode())
            if page.next_seq > page.head_seq:
                return

    def _is_of_task(self, event: AgentEvent) -> bool:
        """Whether it is the task's own, one of its hops' (`<task>~1`), or says something of it."""
        details = event.data.get("details")
        named = details.get("task_id") if isinstance(details, dict) else None
        names = {str(name).partition("~")[0] for name in (event.taskid, named) if name}
        return self.task.task_id in names

    def _event(self, kind: str, data: str) -> ServerSentEvent:
        return ServerSentEvent(data=data, event=kind, id=str(self.seq), sep="\n")
