"""What is published when a task has its answer: the reply, the next hop of the slip, the announcement."""

import hashlib
from typing import Any

import msgspec

from flotilla.agent.agent import Agent
from flotilla.agent.effects import Answer
from flotilla.contracts.envelope import AgentEvent, to_builtins, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import EVENTS_STREAM, REPLIES_STREAM, task_stream
from flotilla.contracts.tasks import (
    MAX_INLINE_RESULT_BYTES,
    TASK_REPLIED,
    TASK_REQUESTED,
    AgentReply,
    AgentTask,
    ResultReference,
    TaskCompleted,
    next_hop,
)

_SUMMARY_CHARACTERS = 200


def answers(agent: Agent, task: AgentTask, answer: Answer) -> list[tuple[str, AgentEvent]]:
    """Everything that `answer` makes public, in the order of publication."""
    if answer.status != "done" or answer.result is None:
        return [(REPLIES_STREAM, _reply_event(agent, task, _unsuccessful(agent, task, answer)))]
    body = canonical(answer.result)
    published = []
    if task.slip:
        hop = next_hop(task, answer.result, by_reference=len(body) > MAX_INLINE_RESULT_BYTES)
        published.append((task_stream(hop.agent), _event(agent, hop, TASK_REQUESTED, to_builtins(hop))))
    published.append((REPLIES_STREAM, _reply_event(agent, task, _successful(agent, task, answer.result, body))))
    done = TaskCompleted(task_id=task.task_id, agent=agent.name, attempt=answer.attempt, duration_ms=answer.duration_ms)
    published.append((EVENTS_STREAM, _event(agent, task, agent.announces, to_builtins(done))))
    return published


def progress(agent: Agent, task: AgentTask, text: str) -> tuple[str, AgentEvent]:
    """A heartbeat for whoever waits."""
    reply = _reply(agent, task, status="progress", progress=text, final=False)
    return REPLIES_STREAM, _reply_event(agent, task, reply)


def canonical(result: JsonObject) -> bytes:
    """The bytes that a result's hash is over: JSON with sorted keys, so that a trip through jsonb changes nothing."""
    return msgspec.json.encode(result, order="sorted")


def reference(task_id: str, result: JsonObject, body: bytes) -> ResultReference:
    """Stands for a result that is too large for a workflow's history."""
    summary = next((value for value in result.values() if isinstance(value, str)), to_json(result).decode())
    return ResultReference(
        task_id=task_id,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        summary=summary[:_SUMMARY_CHARACTERS],
    )


def _successful(agent: Agent, task: AgentTask, result: JsonObject, body: bytes) -> AgentReply:
    if len(body) > MAX_INLINE_RESULT_BYTES:
        stored = reference(task.task_id, result, body)
        return _reply(agent, task, status="done", result_ref=stored, final=not task.slip)
    return _reply(agent, task, status="done", result=result, final=not task.slip)


def _unsuccessful(agent: Agent, task: AgentTask, answer: Answer) -> AgentReply:
    return _reply(agent, task, status=answer.status, failure=answer.failure)


def _reply(agent: Agent, task: AgentTask, **fields: Any) -> AgentReply:
    return AgentReply(
        task_id=task.task_id,
        agent=agent.name,
        tenant_id=task.tenant_id,
        session_id=task.session_id,
        run_id=task.run_id,
        attempt=task.attempt,
        reply_to=task.reply_to,
        persisted=True,
        **fields,
    )


def _reply_event(agent: Agent, task: AgentTask, reply: AgentReply) -> AgentEvent:
    return _event(agent, task, TASK_REPLIED, to_builtins(reply))


def _event(agent: Agent, task: AgentTask, kind: str, data: JsonObject) -> AgentEvent:
    return AgentEvent(
        type=kind,
        source=f"/agents/{agent.name}",
        subject=task.session_id,
        tenant=task.tenant_id,
        runid=task.run_id,
        taskid=task.task_id,
        subjectkey=task.user_id,
        data=data,
    )
