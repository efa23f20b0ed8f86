"""A conversation as a workflow takes it: what the client sent, after what was said before, in one form.

Responses and chat completions have different words for the same: both become messages of chat completions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from flotilla.contracts.conversations import ProposedCall
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, Invalid
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from gateway.openai.errors import ContextTooLong
from gateway.openai.functions import reply_of
from gateway.openai.messages import InputMessage
from gateway.problems import checked_model
from gateway.runs.askable import RunTarget
from gateway.schemas.runs import MAX_INPUT_BYTES, Run, RunRequest

Json: TypeAlias = dict[str, Any]
_FUNCTIONS = ("tools", "tool_choice", "parallel_tool_calls")


def conversation_request(
    asked: RunTarget, messages: Sequence[InputMessage], parameters: Mapping[str, Any], before: Sequence[Json] = ()
) -> RunRequest:
    """Return the run that asks for the next reply, after what was said `before`. `parameters` has the functions, the
    instructions and the format.

    Raises:
        Invalid: a call has no output or an output no call, nothing is left to reply to, or it is too long.
    """
    if any(one.files for one in messages):
        raise Invalid(f"{asked.name} reads no files: send their text")
    said = [*before, *(_plain(one) for one in messages)]
    _check_outputs(said)
    instructions, wanted = parameters.get("instructions"), parameters.get("format")
    first = [{"role": "system", "content": instructions}] if instructions else []
    data: Json = {"messages": [*first, *said], **{name: parameters[name] for name in _FUNCTIONS}}
    if wanted is not None:
        data["response_format"] = _nested(wanted)
    size = len(to_json(data))
    if size > MAX_INPUT_BYTES:
        raise ContextTooLong(f"the conversation has {size} bytes, {MAX_INPUT_BYTES} are allowed: begin a new one")
    return checked_model(RunRequest, workflow=asked.name, input=data)


def asked_in(run: Run, parameters: Mapping[str, Any]) -> list[Json]:
    """Return what a run was asked, as messages; instructions are no part of it."""
    if "tools" in parameters:
        return list((run.input or {}).get("messages", ()))[bool(parameters.get("instructions")) :]
    return [{"role": "user", "content": run.query if run.input is None else to_json(run.input).decode()}]


def said_before(run: Run, parameters: Mapping[str, Any]) -> list[Json]:
    """Return what was said up to the end of a run, so that a response can continue it. Instructions were for that
    response alone.

    Raises:
        Conflict: it has not ended, or not with a reply.
    """
    if run.status in OPEN_RUN_STATUSES:
        raise Conflict(f"response resp_{run.run_id} has not ended: wait for it, or cancel it")
    said = asked_in(run, parameters)
    if run.result is not None:
        return [*said, assistant_message(run.result.answer, [])]
    try:
        reply = reply_of(run, parameters)
    except ValueError as error:
        raise Conflict(f"response resp_{run.run_id} has no reply that can be continued: {error}") from error
    return said if reply is None else [*said, assistant_message(reply.text, reply.calls)]


def assistant_message(text: str, calls: Sequence[ProposedCall]) -> Json:
    """Return what a model said as a message."""
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": [tool_call(one) for one in calls]}


def tool_call(call: ProposedCall) -> Json:
    """Return a call as chat completions have it."""
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _nested(wanted: Mapping[str, Any]) -> Json:
    """The format as chat completions have it."""
    if wanted["type"] != "json_schema":
        return dict(wanted)
    return {"type": "json_schema", "json_schema": {name: value for name, value in wanted.items() if name != "type"}}


def _plain(message: InputMessage) -> Json:
    plain: Json = {"role": message.role, "content": None if message.content is None else message.text}
    if message.calls:
        plain["tool_calls"] = [one.model_dump() for one in message.calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _check_outputs(said: Sequence[Json]) -> None:
    """Refuse a conversation that models refuse: each call has its output right after it, and each output its call."""
    open_calls: set[str] = set()
    for message in said:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                raise Invalid(f"no tool call found for the output of call {message['tool_call_id']}")
            open_calls.remove(message["tool_call_id"])
            continue
        _check_none_open(open_calls)
        open_calls = {call["id"] for call in message.get("tool_calls", ())}
    _check_none_open(open_calls)
    if not said or said[-1]["role"] not in ("user", "tool"):
        raise Invalid("the last message has to be of role user, or the output of a function")


def _check_none_open(open_calls: set[str]) -> None:
    if open_calls:
        raise Invalid(f"no output found for the call {min(open_calls)}: send it right after the call")
