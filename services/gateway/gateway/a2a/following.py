"""A task while it changes, as the protocol streams it: on any replica, from any moment on.

The answer's text is an artifact that grows. A subscriber gets all of it that there is, then what is added. Where a
second attempt writes another text, the artifact begins again, which the protocol has an event for.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from a2a.types.a2a_pb2 import Part, Task, TaskArtifactUpdateEvent, TaskStatusUpdateEvent
from starlette.requests import Request

from flotilla.contracts.requests import RunStatus
from gateway.a2a.records import load_task_run
from gateway.a2a.tasks import (
    artifact_from_run,
    artifact_update_event,
    details_part,
    is_task_open,
    status_update_event,
    task_from_run,
    text_part,
)
from gateway.a2a.waiting import Waiting, load_what_run_waits_for
from gateway.auth.principal import Principal
from gateway.live.admission import stream_access_check
from gateway.openai.answer_text import StreamedAnswer
from gateway.openai.errors import AnswerRestarted
from gateway.runs.askable import RunTarget
from gateway.runs.events import StreamPosition, stream_run_events
from gateway.runs.records import load_followed_run
from gateway.schemas.runs import Run
from gateway.services import GatewayServices

Update = Task | TaskStatusUpdateEvent | TaskArtifactUpdateEvent


@dataclass(frozen=True, slots=True)
class TaskView:
    """One caller's view of one agent's tasks."""

    services: GatewayServices
    request: Request
    caller: Principal
    agent: RunTarget

    async def recheck_access(self) -> None:
        """Check again that the caller's credentials count.

        Raises:
            Unauthenticated, Forbidden: no longer.
        """
        await self.request.app.state.guard.recheck_access(self.request, self.caller)

    async def run(self, run_id: str) -> Run:
        """Return the run of a task.

        Raises:
            NotFound: the caller sees no such task of the agent.
        """
        return await load_task_run(self.services, self.caller.tenant_id, self.agent, run_id)

    async def task(self, run: Run, *, artifacts: bool = True) -> Task:
        """Return the run as a task, with what it waits for."""
        return _task(run, await self.waiting(run), artifacts=artifacts)

    async def waiting(self, run: Run) -> Waiting:
        """Return what people have to decide or answer before the task continues."""
        return await load_what_run_waits_for(self.services.pool, self.caller.tenant_id, run)

    async def stream_updates(self, run: Run) -> AsyncIterator[Update]:
        """Yield the task as it is, then what changes, until it is over or the caller may no longer read it."""
        read = partial(load_followed_run, self.services.pool, self.caller.tenant_id, run.run_id)
        followed = await read()  # before the task: what changes from here on is an event
        run = await self.run(run.run_id)
        waiting = await self.waiting(run)
        yield _task(run, waiting)
        if not is_task_open(run):
            return
        answer = _GrowingAnswer(run, shows_tokens=run.input is None and not self.agent.agents_of_run)
        admission = stream_access_check(self.request, self.caller, read)
        status, shown = run.status, (waiting.state(run), waiting.ids)
        async for event in stream_run_events(
            self.services, self.caller.tenant_id, followed, StreamPosition(), admission, statuses=True
        ):
            if _may_have_changed(str(event.event), status):
                run = await self.run(run.run_id)
                waiting = await self.waiting(run)
                status, before, shown = run.status, shown, (waiting.state(run), waiting.ids)
                if shown != before and is_task_open(run):
                    yield status_update_event(run, waiting.state(run), waiting.message(run))
            for grown in answer.artifact_updates(str(event.event), str(event.data)):
                yield grown
        if not await admission.may_read():
            return
        run = await self.run(run.run_id)
        if not is_task_open(run):
            for grown in answer.end(run):
                yield grown
            yield status_update_event(run)


def _task(run: Run, waiting: Waiting, *, artifacts: bool = True) -> Task:
    return task_from_run(run, waiting.state(run), waiting.message(run), artifacts=artifacts)


def _may_have_changed(event: str, status: RunStatus) -> bool:
    """Whether an event may be a change of the task's state. What an interrupted run waits for changes without a change
    of its status."""
    return (
        event == "status" or status in {"queued", "pending"} or (event == "session_event" and status == "interrupted")
    )


@dataclass(slots=True)
class _GrowingAnswer:
    """The answer's text as updates of one artifact."""

    run: Run
    shows_tokens: bool
    text: StreamedAnswer = field(default_factory=StreamedAnswer)
    began: bool = False
    differs: bool = False
    """Whether the present attempt writes another text than was sent: it is sent whole, at the end."""

    def artifact_updates(self, kind: str, data: str) -> list[TaskArtifactUpdateEvent]:
        """Return what one event of the run adds."""
        if not self.shows_tokens:
            return []
        if kind == "reset":
            self.text.begin_next_attempt()
        if kind != "token" or self.differs:
            return []
        try:
            new = self.text.feed(json.loads(data)["text"])
        except AnswerRestarted:
            self.differs = True
            return []
        return [self._add([text_part(new)])] if new else []

    def end(self, run: Run) -> list[TaskArtifactUpdateEvent]:
        """Return what is missing of what came of the run."""
        whole = artifact_from_run(run)
        if whole is None:
            return []
        if run.result is not None and self.began and not self.differs:
            try:
                rest = self.text.unsent_answer_text(run.result.answer)
            except AnswerRestarted:
                rest = None
            if rest is not None:
                return [self._add([*([text_part(rest)] if rest else []), details_part(run.result)], last=True)]
        self.began = False
        return [self._add(list(whole.parts), last=True)]

    def _add(self, parts: list[Part], *, last: bool = False) -> TaskArtifactUpdateEvent:
        append, self.began = self.began, True
        return artifact_update_event(self.run, parts, append=append, last=last)
