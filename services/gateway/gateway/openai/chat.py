"""Chat completions: the answer of a run as one object, or as chunks."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from starlette.exceptions import HTTPException

from flotilla.contracts.conversations import ProposedCall
from flotilla.contracts.errors import FlotillaError
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import RAGResponse
from flotilla.contracts.tasks import TokenUsage
from gateway.openai.answer_text import pieces_of
from gateway.openai.citations import citation_annotations
from gateway.openai.conversations import assistant_message, tool_call
from gateway.openai.errors import openai_error_body
from gateway.openai.following import RunFollower, answer_text_of_run
from gateway.problems import problem_from_error
from gateway.runs.cited import EndNote
from gateway.schemas.runs import Run

Json: TypeAlias = dict[str, Any]
_FINISH = {"stop": "stop", "length": "length", "refusal": "content_filter", "tool_calls": "stop"}


class ChatCompletion(BaseModel):
    """A chat completion."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Json]
    usage: Json
    flotilla: Json
    """The run, its session, its sources and the answer's confidence."""


def completion_from_run(run: Run, model: str, calls: Sequence[ProposedCall] = ()) -> Json:
    """Return the completion of a run that has its answer; `calls`: the functions that the client is to run."""
    answer = answer_text_of_run(run)
    message: Json = {**assistant_message(answer.answer, calls), "refusal": None}
    message["annotations"] = [
        {"type": "url_citation", "url_citation": {key: value for key, value in note.items() if key != "type"}}
        for note in citation_annotations(answer.answer, answer.sources)
        if note["type"] == "url_citation"
    ]
    finish_reason = _finish_reason(answer, calls)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return {
        **_head(run, model, "chat.completion"),
        "choices": [choice],
        "usage": usage_from_run(answer.usage),
        "flotilla": flotilla_details(run, answer),
    }


async def completion_chunks(
    following: RunFollower, model: str, *, include_usage: bool, note: EndNote
) -> AsyncIterator[ServerSentEvent]:
    """Yield the answer's chunks, then `[DONE]`; an error in the middle is the last chunk. `note` is called before the
    end is sent.
    """
    head = _head(following.run, model, "chat.completion.chunk")
    try:
        yield _chunk(head, {"role": "assistant", "content": ""})
        run = following.run
        async for part in following.stream_answer(note):
            if isinstance(part, Run):
                run = part
            elif part:
                yield _chunk(head, {"content": part})
        answer = answer_text_of_run(run)
        calls = following.calls(run)
        for number, call in enumerate(calls):
            for delta in _call_deltas(number, call):
                yield _chunk(head, {"tool_calls": [delta]})
        yield _chunk({**head, "flotilla": flotilla_details(run, answer)}, {}, _finish_reason(answer, calls))
        if include_usage:
            yield _event({**head, "choices": [], "usage": usage_from_run(answer.usage)})
    except (FlotillaError, HTTPException) as error:
        yield _event(openai_error_body(problem_from_error(error)))
        return
    yield ServerSentEvent(data="[DONE]", sep="\n")


def _finish_reason(answer: RAGResponse, calls: Sequence[ProposedCall]) -> str:
    return "tool_calls" if calls else _FINISH[answer.finish_reason]


def _call_deltas(number: int, call: ProposedCall) -> Iterator[Json]:
    """Yield a call's name, then its arguments in pieces."""
    yield {"index": number, **tool_call(replace(call, arguments=""))}
    for piece in pieces_of(call.arguments):
        yield {"index": number, "function": {"arguments": piece}}


def completion_without_run(model: str, text: str) -> Json:
    """Return an answer that took no run."""
    message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": f"chatcmpl-{new_id()}", "object": "chat.completion", "created": int(time.time()), "model": model}
    return {**head, "choices": [choice], "usage": usage_from_run(TokenUsage()), "flotilla": {}}


async def chunks_without_run(model: str, text: str) -> AsyncIterator[ServerSentEvent]:
    """Yield the same as chunks."""
    head = {**completion_without_run(model, text), "object": "chat.completion.chunk"}
    yield _chunk(head, {"role": "assistant", "content": text})
    yield _chunk(head, {}, "stop")
    yield ServerSentEvent(data="[DONE]", sep="\n")


def usage_from_run(usage: TokenUsage) -> Json:
    """Return what the answer cost, as chat completions count it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def flotilla_details(run: Run, answer: RAGResponse) -> Json:
    """Return what OpenAI's objects have no place for."""
    if run.output is not None:
        return {"run_id": run.run_id, "session_id": run.session_id, "output": run.output}
    dumped = run.model_dump(mode="json", include={"result"})["result"]
    names = ("confidence", "confidence_basis", "sources", "statements", "abstained", "searched_for")
    return {"run_id": run.run_id, "session_id": run.session_id, "model": answer.model} | {
        name: dumped[name] for name in names
    }


def _head(run: Run, model: str, kind: str) -> Json:
    created = int(run.created_at.timestamp())
    return {"id": f"chatcmpl-{run.run_id}", "object": kind, "created": created, "model": model}


def _chunk(head: Json, delta: Json, finish_reason: str | None = None) -> ServerSentEvent:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event({**head, "choices": [choice]})


def _event(data: Json) -> ServerSentEvent:
    return ServerSentEvent(data=json.dumps(data, ensure_ascii=False, separators=(",", ":")), sep="\n")
