"""A run's answer as an OpenAI client gets it: all at once, or while it is written."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from flotilla.contracts.conversations import CHAT, ProposedCall
from flotilla.contracts.requests import OPEN_RUN_STATUSES, RAGResponse
from gateway.auth.principal import Principal
from gateway.live.admission import stream_access_check
from gateway.openai.answer_text import StreamedAnswer
from gateway.openai.errors import RunFailed, StillRunning
from gateway.openai.functions import calls_of
from gateway.openai.models import QUESTIONS
from gateway.openai.outputs import run_for_caller
from gateway.runs.cited import EndNote, get_readable_run
from gateway.runs.events import StreamPosition, stream_run_events
from gateway.runs.records import load_followed_run
from gateway.runs.waiting import wait_for_finished_run
from gateway.schemas.runs import Run
from gateway.services import GatewayServices

WAIT_S = 600.0
"""As long as OpenAI's clients wait by default."""


@dataclass(frozen=True, slots=True)
class RunFollower:
    """One client that follows one run."""

    services: GatewayServices
    request: Request
    caller: Principal
    run: Run
    parameters: Mapping[str, Any]
    """What the client sent with the request."""

    async def current_run(self, note: EndNote | None = None) -> Run:
        """Return the run as the client is shown it, after `note` where it has ended."""
        run = await get_readable_run(self.services.pool, self.caller.tenant_id, self.run.run_id, note)
        return await run_for_caller(self.services, self.caller.tenant_id, run, self.parameters)

    async def wait_for_answer(self, note: EndNote | None = None) -> Run:
        """Return the run once it has its answer and `note` was called.

        Raises:
            RunFailed: it ended without one.
            StillRunning: it takes longer than a request may.
        """
        run = await self.wait_for_end(note)
        answer_text_of_run(run)
        return run

    async def wait_for_end(self, note: EndNote | None = None) -> Run:
        """Return the run once it has ended and `note` was called.

        Raises:
            StillRunning: it takes longer than a request may.
        """
        tenant_id, run_id = self.caller.tenant_id, self.run.run_id
        admission = stream_access_check(
            self.request, self.caller, partial(load_followed_run, self.services.pool, tenant_id, run_id)
        )
        run = await wait_for_finished_run(self.services, tenant_id, run_id, WAIT_S, admission, note=note)
        if run is None:
            place = f"run {self.run.run_id} continues: GET /v1/runs/{self.run.run_id}"
            raise StillRunning(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {WAIT_S:g} s; {place}")
        return await run_for_caller(self.services, self.caller.tenant_id, run, self.parameters)

    def calls(self, run: Run) -> list[ProposedCall]:
        """Return the functions that the client is to run before more is said."""
        return calls_of(run, self.parameters)

    async def stream_answer(self, note: EndNote | None = None) -> AsyncIterator[str | Run]:
        """Yield the answer's text in parts, as it is written, then the run that has it, after `note`.

        Raises:
            RunFailed: it ended without one.
            AnswerRestarted: a second attempt wrote something else.
            Forbidden: the caller may not read it any more.
        """
        answer = StreamedAnswer()
        if self.run.status in OPEN_RUN_STATUSES:
            async for text in self._live(answer):
                yield text
        run = await self.current_run(note)
        yield answer.unsent_answer_text(answer_text_of_run(run).answer)
        yield run

    async def _live(self, answer: StreamedAnswer) -> AsyncIterator[str]:
        read = partial(load_followed_run, self.services.pool, self.caller.tenant_id, self.run.run_id)
        followed = await read()
        admission = stream_access_check(self.request, self.caller, read)
        shows_tokens = self.run.workflow == CHAT or (
            self.run.input is None and self.parameters.get("model", QUESTIONS) == QUESTIONS
        )
        async for event in stream_run_events(
            self.services, self.caller.tenant_id, followed, StreamPosition(), admission
        ):
            if not shows_tokens:
                continue
            if event.event == "reset":
                answer.begin_next_attempt()
            elif event.event == "token" and (text := answer.feed(json.loads(event.data or "{}")["text"])):
                yield text
        await admission.check_may_read(f"run {self.run.run_id}")


def answer_text_of_run(run: Run) -> RAGResponse:
    """Return the answer.

    Raises:
        RunFailed: the run ended without one, or has not ended.
    """
    if run.result is not None:
        return run.result
    if run.status in OPEN_RUN_STATUSES:
        raise StillRunning(HTTPStatus.SERVICE_UNAVAILABLE, f"run {run.run_id} continues: ask for it again")
    reason = (run.error or {}).get("message") or run.status
    raise RunFailed(HTTPStatus.INTERNAL_SERVER_ERROR, f"run {run.run_id} ended without an answer: {reason}")
