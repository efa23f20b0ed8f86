"""Questions to people: asked once, waited for however long, closed however the wait ends."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import is_valid_id
from flotilla.contracts.questions import (
    MAX_QUESTION_CHARACTERS,
    MAX_SCHEMA_BYTES,
    Answered,
    Asked,
    OpenQuestion,
    QuestionStatus,
    answer_event_name,
)
from flotilla.contracts.typed import Codec, is_object_type
from flotilla.contracts.values import why_not_storable
from flotilla.workflows.calls import questions as call
from flotilla.workflows.calls.runs import RunKey
from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, TIMED_OUT, UNLIMITED_RETRIES, StepTrouble
from flotilla.workflows.inbox import RunEventInbox
from flotilla.workflows.interruption import wait_ignoring_cancellation, wait_then_cancel
from flotilla.workflows.steps import NotAnswered

T = TypeVar("T")


class RunQuestions:
    """The questions of one run."""

    def __init__(self, run: RunKey, inbox: RunEventInbox, carried: Sequence[OpenQuestion] = ()) -> None:
        """`carried` are those that were open when the workflow continued as new."""
        self._run = run
        self._inbox = inbox
        self._left = list(carried)
        self._open: dict[str, OpenQuestion] = {}

    @property
    def open_questions(self) -> list[OpenQuestion]:
        """Those that nobody has answered yet."""
        return [*self._left, *self._open.values()]

    async def ask_and_wait(
        self, step: str, question: str, kind: type[Any], roles: Sequence[str], timeout: timedelta | None
    ) -> JsonObject:
        """Return the answer.

        Raises:
            ApplicationError: `Invalid`: nobody can be asked this.
            NotAnswered: nobody answered in time, or the question was closed otherwise.
            asyncio.CancelledError: the workflow was cancelled; the question is off the inbox.
        """
        schema = _question_schema(step, question, kind)
        if not is_valid_id(f"{self._run.run_id}.{step}"):
            raise _invalid_question_error(
                step, "a question's step is of letters, digits and . _ : -, and short: name it with `step`"
            )
        deadline = None if timeout is None else workflow.now() + timeout
        asked = self._reuse_or_create_question(step, _question_fingerprint(question, schema, roles))
        try:
            answered = await self._put_question_and_wait(
                call.AskQuestion(
                    run=self._run,
                    question_id=asked.question_id,
                    question=question,
                    schema=schema,
                    roles=list(roles),
                    deadline=deadline,
                )
            )
        except asyncio.CancelledError:
            await wait_ignoring_cancellation(self._settle_question(asked.question_id, "cancelled"))
            raise
        del self._open[asked.question_id]
        if answered.status == "answered":
            return answered.answer
        raise NotAnswered(step, _why_not_answered(question, answered), answered.status)

    def _reuse_or_create_question(self, step: str, fingerprint: str) -> OpenQuestion:
        """The question that was open before the workflow continued as new, if it is asked again; else a new one."""
        same = next((one for one in self._left if one.fingerprint == fingerprint), None)
        if same is None:
            same = OpenQuestion(question_id=f"{self._run.run_id}.{step}", fingerprint=fingerprint)
        else:
            self._left.remove(same)
        self._open[same.question_id] = same
        return same

    async def _put_question_and_wait(self, question: call.AskQuestion) -> Answered:
        # To its end: what is asked while the run is cancelled is off the inbox afterwards.
        asked: Asked = await wait_then_cancel(
            workflow.execute_local_activity(
                call.ASK_QUESTION,
                question,
                result_type=Asked,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                retry_policy=UNLIMITED_RETRIES,
            )
        )
        if not asked.is_open:
            return await self._settle_question(question.question_id)
        while True:
            in_time = await self._wait_for_answer_event(question.question_id, asked.deadline)
            # What woke it up proves nothing. The row decides, and the log says what was answered.
            answered = await wait_then_cancel(
                self._settle_question(question.question_id, "open" if in_time else "expired")
            )
            if answered.status != "open":
                return answered

    async def _wait_for_answer_event(self, question_id: str, deadline: datetime | None) -> bool:
        name = answer_event_name(question_id)
        left = None if deadline is None else max(deadline - workflow.now(), timedelta())
        try:
            await workflow.wait_condition(lambda: self._inbox.has_event(name), timeout=left)
        except TimeoutError:
            return False
        self._inbox.take_event(name)
        return True

    async def _settle_question(self, question_id: str, otherwise: QuestionStatus = "open") -> Answered:
        settled: Answered = await workflow.execute_local_activity(
            call.SETTLE_QUESTION,
            call.SettleQuestion(run=self._run, question_id=question_id, otherwise=otherwise),
            result_type=Answered,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        return settled


def _question_schema(step: str, question: str, kind: type[Any]) -> JsonObject:
    if not is_object_type(kind):
        raise _invalid_question_error(step, "the answer needs a type with fields: a dataclass or a model")
    if not question.strip() or len(question) > MAX_QUESTION_CHARACTERS:
        raise _invalid_question_error(step, f"ask something, in at most {MAX_QUESTION_CHARACTERS} characters")
    schema = Codec(kind, f"the answer to {step}").schema()
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)  # a typo is not a field that nobody reads
    if reason := why_not_storable([question, schema]):
        raise _invalid_question_error(step, f"question or schema can't be stored: {reason}")
    if len(to_json(schema)) > MAX_SCHEMA_BYTES:
        raise _invalid_question_error(step, f"the schema of the answer has more than {MAX_SCHEMA_BYTES} bytes")
    return schema


def _invalid_question_error(step: str, why: str) -> ApplicationError:
    return ApplicationError(f"{step}: {why}", type="Invalid", non_retryable=True)


def _question_fingerprint(question: str, schema: JsonObject, roles: Sequence[str]) -> str:
    return hashlib.sha256(to_json([question, schema, sorted(roles)])).hexdigest()


def _why_not_answered(question: str, answered: Answered) -> StepTrouble:
    expired = answered.status == "expired"
    message = f"nobody answered in time: {question}" if expired else f"the question was {answered.status}: {question}"
    kind = TIMED_OUT if expired else "NotAnswered"
    return StepTrouble(kind, message, timed_out=expired, cancelled=False, retryable=False)
