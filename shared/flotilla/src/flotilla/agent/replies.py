"""What an agent publishes when a task has its answer: the reply, on its own stream."""

from typing import Any

from flotilla.agent.agent import Agent
from flotilla.agent.effects import StoredAnswer
from flotilla.contracts.envelope import AgentEvent, to_builtins
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import reply_stream
from flotilla.contracts.results import canonical_bytes, result_reference
from flotilla.contracts.tasks import (
    MAX_INLINE_RESULT_BYTES,
    TASK_REPLIED,
    AgentReply,
    AgentTask,
)
from flotilla.encryption import is_wrapped


def reply_events_for_answer(agent: Agent, task: AgentTask, answer: StoredAnswer) -> list[tuple[str, AgentEvent]]:
    """What `answer` makes public: a reply. The bridge forwards the slip and announces, as it is on record."""
    if answer.status != "done" or answer.result is None:
        reply = _unsuccessful_reply(agent, task, answer)
    else:
        reply = _successful_reply(agent, task, answer.result)
    return [(reply_stream(agent.name), _reply_event(agent, task, reply))]


def make_progress_reply(agent: Agent, task: AgentTask, text: str) -> tuple[str, AgentEvent]:
    """A heartbeat for the waiting caller."""
    reply = _reply(agent, task, status="progress", progress=text, final=False)
    return reply_stream(agent.name), _reply_event(agent, task, reply)


def _successful_reply(agent: Agent, task: AgentTask, result: JsonObject) -> AgentReply:
    ending: dict[str, Any] = {"final": not task.slip, "announces": None if task.replay else agent.announces}
    if len(canonical_bytes(result)) > MAX_INLINE_RESULT_BYTES:
        if is_wrapped(result):
            return _reply(agent, task, status="done", **ending)
        stored = result_reference(task.task_id, result)
        return _reply(agent, task, status="done", result_ref=stored, **ending)
    return _reply(agent, task, status="done", result=result, **ending)


def _unsuccessful_reply(agent: Agent, task: AgentTask, answer: StoredAnswer) -> AgentReply:
    return _reply(agent, task, status=answer.status, failure=answer.failure)


def _reply(agent: Agent, task: AgentTask, **fields: Any) -> AgentReply:
    return AgentReply(
        task_id=task.task_id,
        agent=agent.name,
        tenant_id=task.tenant_id,
        session_id=task.session_id,
        run_id=task.run_id,
        attempt=task.attempt,
        persisted=True,
        **fields,
    )


def _reply_event(agent: Agent, task: AgentTask, reply: AgentReply) -> AgentEvent:
    return _make_task_event(agent, task, TASK_REPLIED, to_builtins(reply))


def _make_task_event(agent: Agent, task: AgentTask, kind: str, data: JsonObject) -> AgentEvent:
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
