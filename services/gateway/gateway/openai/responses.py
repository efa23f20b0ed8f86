"""Responses: a run as OpenAI's response object, and its stream with numbers that never change.

Each event of a stream is a function of the run alone: its row, and its answer. So any replica sends the same bytes
under the same numbers, during the run and after it; a client continues with `starting_after` wherever it was cut off.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from starlette.exceptions import HTTPException

from flotilla.contracts.conversations import ProposedCall
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import FlotillaError, Forbidden
from flotilla.contracts.requests import OPEN_RUN_STATUSES, RAGResponse
from gateway.openai.answer_text import DeltaSplitter, pieces_of
from gateway.openai.chat import flotilla_details
from gateway.openai.citations import citation_annotations
from gateway.openai.errors import AnswerRestarted, openai_error_body
from gateway.openai.following import RunFollower
from gateway.openai.functions import calls_of
from gateway.problems import problem_from_error
from gateway.questions.records import asked_in
from gateway.runs.pending_approvals import PendingApproval
from gateway.schemas.runs import Run

Json: TypeAlias = dict[str, Any]
_STATUS = {"pending": "queued", "running": "in_progress", "interrupted": "in_progress", "success": "completed"}
_STATUS |= {"cancelled": "cancelled", "error": "failed", "timeout": "failed"}


class Response(BaseModel):
    """A response."""

    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: list[Json]


def response_id(run_id: str) -> str:
    """Return the id of a run's response."""
    return f"resp_{run_id}"


def run_id_of(response: str) -> str:
    """Return the run of a response."""
    return response.removeprefix("resp_")


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What people are to do before a run continues."""

    approvals: Sequence[PendingApproval] = ()
    questions: Sequence[Mapping[str, Any]] = ()

    def items(self) -> list[Json]:
        """Return it as output of a response that is in progress."""
        return [*map(_approval_request, self.approvals), *map(_asked, self.questions)]

    def details(self) -> Json:
        """Return what OpenAI's items have no place for."""
        if not self.questions:
            return {}
        return {"flotilla": {"questions": [asked_in(row) for row in self.questions]}}


def response_from_run(run: Run, parameters: Mapping[str, Any], waits_for: WaitsFor | None = None) -> Json:
    """Return the run as a response object. `parameters`: what the client sent with it."""
    answer, status = run.result, _STATUS[run.status]
    response = _base(run, parameters) | {"status": status}
    if run.finished_at is not None:
        response["completed_at"] = int(run.finished_at.timestamp()) if status == "completed" else None
    if answer is not None:
        calls = calls_of(run, parameters)
        message = [_message(run, answer)] if answer.answer or not calls else []
        response["output"] = [*message, *(_call_item(run, *call) for call in enumerate(calls))]
        response["usage"] = _usage(answer)
        response["flotilla"] = flotilla_details(run, answer)
        if answer.finish_reason == "length":
            response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    elif waits_for is not None and status == "in_progress":
        response["output"] = waits_for.items()
        response |= waits_for.details()
    elif status == "failed":
        reason = (run.error or {}).get("message") or run.status
        response["error"] = {"code": "server_error", "message": str(reason)}
    return response


async def stream_response_events(following: RunFollower, after: int) -> AsyncIterator[ServerSentEvent]:
    """Yield the run's events with numbers above `after`. An error is none of them: it has the number of the last one
    that the client has, so that it continues after that.
    """
    async for event in _events(following):
        if event["type"] == "error":
            event["sequence_number"] = max(event["sequence_number"], after)
        elif event["type"] in {"response.failed", "response.cancelled"}:
            event["sequence_number"] = max(event["sequence_number"], after + 1)
        if event["sequence_number"] > after or event["type"] == "error":
            data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            yield ServerSentEvent(data=data, event=event["type"], sep="\n")


async def _events(following: RunFollower) -> AsyncIterator[Json]:
    parameters = following.parameters
    message = _MessageEvents(following.run)
    begun = _base(following.run, parameters) | {"status": "queued" if parameters.get("background") else "in_progress"}
    yield message.event("response.created", response=begun)
    yield message.event("response.in_progress", response={**begun, "status": "in_progress"})
    pieces, run = DeltaSplitter(), following.run
    try:
        async for part in following.stream_answer():
            if isinstance(part, Run):
                run = part
                continue
            for event in message.texts(pieces.feed(part)):
                yield event
    except (AnswerRestarted, Forbidden) as error:
        yield message.error(error)
        return
    except (FlotillaError, HTTPException) as error:
        run = await following.current_run()
        if run.status in OPEN_RUN_STATUSES:
            yield message.error(error)
            return
        status = _STATUS[run.status]
        yield message.event(f"response.{status}", response=response_from_run(run, parameters))
        return
    for event in (*message.texts(pieces.end()), *message.end(run), *message.calls(run, following.calls(run))):
        yield event
    response = response_from_run(run, parameters)
    yield message.event(f"response.{response['status']}", response=response)


@dataclass(slots=True)
class _MessageEvents:
    """Numbers the events, and frames the answer's text."""

    run: Run
    number: int = -1
    began: bool = False
    text: list[str] = field(default_factory=list)

    def event(self, kind: str, **data: Any) -> Json:
        """Return the next event."""
        self.number += 1
        return {"type": kind, "sequence_number": self.number, **data}

    def error(self, error: Exception) -> Json:
        """Return what ends a stream whose run continues, or can't be shown."""
        body = openai_error_body(problem_from_error(error))["error"]
        details = {name: body[name] for name in ("code", "message", "param")}
        return {"type": "error", "sequence_number": self.number, **details}

    def texts(self, pieces: list[str]) -> Iterator[Json]:
        """Yield a delta per piece, and the message's beginning before the first."""
        for piece in pieces:
            if not self.began:
                self.began = True
                item = {"id": _message_id(self.run), "type": "message", "role": "assistant", "content": []}
                yield self.event("response.output_item.added", output_index=0, item={**item, "status": "in_progress"})
                yield self.event("response.content_part.added", **self._place(), part=_part("", []))
            self.text.append(piece)
            yield self.event("response.output_text.delta", **self._place(), delta=piece, logprobs=[])

    def end(self, run: Run) -> Iterator[Json]:
        """Yield the message's end."""
        answer = run.result
        if answer is None or not self.began:
            return
        notes = citation_annotations(answer.answer, answer.sources)
        for index, note in enumerate(notes):
            place = self._place()
            yield self.event("response.output_text.annotation.added", **place, annotation_index=index, annotation=note)
        yield self.event("response.output_text.done", **self._place(), text=answer.answer, logprobs=[])
        yield self.event("response.content_part.done", **self._place(), part=_part(answer.answer, notes))
        yield self.event("response.output_item.done", output_index=0, item=_message(run, answer))

    def calls(self, run: Run, calls: Sequence[ProposedCall]) -> Iterator[Json]:
        """Yield the functions that the client is to run, after the message where there is one."""
        for index, call in enumerate(calls):
            item, place = _call_item(run, index, call), {"output_index": index + self.began}
            begun = {**item, "arguments": "", "status": "in_progress"}
            yield self.event("response.output_item.added", **place, item=begun)
            place["item_id"] = item["id"]
            for piece in pieces_of(call.arguments):
                yield self.event("response.function_call_arguments.delta", **place, delta=piece)
            yield self.event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
            yield self.event("response.output_item.done", output_index=place["output_index"], item=item)

    def _place(self) -> Json:
        return {"item_id": _message_id(self.run), "output_index": 0, "content_index": 0}


def _base(run: Run, parameters: Mapping[str, Any]) -> Json:
    return {
        "id": response_id(run.run_id),
        "object": "response",
        "created_at": int(run.created_at.timestamp()),
        "completed_at": None,
        "background": bool(parameters.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": parameters.get("instructions"),
        "max_output_tokens": None,
        "metadata": parameters.get("metadata") or {},
        "model": parameters.get("model", f"flotilla/{run.workflow}"),
        "output": [],
        "parallel_tool_calls": parameters.get("parallel_tool_calls", False),
        "previous_response_id": parameters.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": None,
        "text": {"format": parameters.get("format") or {"type": "text"}},
        **_functions(parameters),
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
        "user": parameters.get("user"),
    }


def _approval_request(approval: PendingApproval) -> Json:
    return {
        "id": f"mcpr_{approval.approval_id}",
        "type": "mcp_approval_request",
        "server_label": "flotilla",
        "name": approval.action,
        "arguments": to_json(approval.args).decode(),
    }


def _asked(row: Mapping[str, Any]) -> Json:
    text = f"{row['question']}\n\nPeople answer in the console or at {asked_in(row)['answer_at']}."
    return {
        "id": f"msg_{row['question_id']}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [_part(text, [])],
    }


def _message(run: Run, answer: RAGResponse) -> Json:
    notes = citation_annotations(answer.answer, answer.sources)
    part = _part(answer.answer, notes)
    if answer.finish_reason == "refusal":
        part = {"type": "refusal", "refusal": answer.answer}
    status = "incomplete" if answer.finish_reason == "length" else "completed"
    return {
        "id": _message_id(run),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }


def _call_item(run: Run, number: int, call: ProposedCall) -> Json:
    return {
        "id": f"fc_{run.run_id}_{number}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _functions(parameters: Mapping[str, Any]) -> Json:
    """The functions on offer, as responses have them."""
    tools = [{"type": "function", "strict": False, **tool["function"]} for tool in parameters.get("tools", ())]
    choice = parameters.get("tool_choice", "none")
    return {
        "tools": tools,
        "tool_choice": choice if isinstance(choice, str) else {"type": "function", **choice["function"]},
    }


def _message_id(run: Run) -> str:
    return f"msg_{run.run_id}"


def _part(text: str, notes: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": notes, "logprobs": []}


def _usage(answer: RAGResponse) -> Json:
    counted = answer.usage
    return {
        "input_tokens": counted.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": counted.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.input_tokens + counted.output_tokens,
    }
