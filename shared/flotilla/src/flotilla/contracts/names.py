"""Every name that crosses a process: streams, groups, topics, task queues, ids.

People, dashboards and programs in other languages rely on these names, so they are written once, here.
"""

import re
from datetime import date
from typing import Literal, TypeAlias

TASK_STREAM_PREFIX = "flotilla.tasks."
VERSION_MARK = "@"
"""Between agent and version in the name of a task stream; no id has it."""
REPLIES_STREAM = "flotilla.replies"
"""Where agents of former versions reply; read only for tasks that a former version delegated."""
REPLY_STREAM_PREFIX = "flotilla.replies."
EVENTS_STREAM = "flotilla.events"
RUN_STREAM_PREFIX = "flotilla.runs."
DEAD_LETTERS_STREAM = "flotilla.dead-letters"
REDRIVES_STREAM = "flotilla.redrives"
"""Where the gateway asks the worker to publish a dead letter again."""
CANCELLED_KEY_PREFIX = "flotilla.cancelled."
LOGIN_KEY_PREFIX = "flotilla.logins."

BRIDGE_GROUP = "workflow-bridge"
AUDIT_GROUP = "audit-consumer"

SESSION_EVENTS_TOPIC = "flotilla.session-events"
CHECKPOINTS_TOPIC = "flotilla.audit-checkpoints"
SESSION_EVENTS_PARTITIONS = 12
"""Fixed permanently: the partition of a session is part of its identity (`flotilla.kafka.lanes`)."""
AUDIT_LOG_ORIGIN = "flotilla.invalid/audit"
"""The name of a fleet's log where none is set: nobody can own it, so no witness outside should know it."""

TASK_QUEUE = "rag-agent-queue"
RAG_WORKFLOW = "RagAgentWorkflow"
QUESTION = "rag"
"""What the runs of `RagAgentWorkflow` are called in the API, beside those of installed workflows."""
APPROVAL_WORKFLOW = "HumanInTheLoopWorkflow"
ORDER_WORKFLOW = "OrderProcessingSaga"
PIPELINE_WORKFLOW = "PipelineWorkflow"

AUDIT_SESSION = "flotilla:audit"
"""The session of each tenant that records what its administrators did: keys, roles, policy. Only Flotilla writes it."""

EVENT_FIELD = "event"
"""The field of a Redis entry that holds the CloudEvent as JSON."""
TICKET_FIELD = "ticket"
"""The field of a task's entry that holds the worker's signature over the field `event`."""

SERVICE_PREFIX = "/services/"

TokenPayer: TypeAlias = Literal["person", "service", "tenant"]
"""Those for whom the tokens of a day are counted."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def is_valid_id(value: str) -> bool:
    """Whether `value` can be a session, order or agent id: 1 to 128 of `A-Z a-z 0-9 . _ : -`, no leading mark."""
    return _ID.fullmatch(value) is not None


def log_origin(origin: str, partition: int) -> str:
    """The name of one partition's tree, in the log `origin`: the first line of its checkpoints."""
    return f"{origin}/{partition}"


def task_stream(agent: str, version: str | None = None) -> str:
    """The stream on which `agent` receives its tasks; with `version`, that of the tasks for this version alone."""
    return TASK_STREAM_PREFIX + agent + (f"{VERSION_MARK}{version}" if version is not None else "")


def agent_of_stream(stream: str) -> str | None:
    """Whose tasks are on `stream`, of whatever version; None for a stream of something else."""
    if not stream.startswith(TASK_STREAM_PREFIX):
        return None
    return stream.removeprefix(TASK_STREAM_PREFIX).partition(VERSION_MARK)[0]


def reply_stream(agent: str) -> str:
    """The stream on which `agent`, and nobody else, replies."""
    return REPLY_STREAM_PREFIX + agent


def agent_group(agent: str) -> str:
    """The consumer group of `agent` on its task stream."""
    return f"{agent}-agents"


def agent_role(agent: str) -> str:
    """The role of PostgreSQL that `agent`, and nobody else, logs in with; migration 0040 has the same rule."""
    return f"flotilla_agent_{agent}"


def run_stream(run_id: str, live_key: str) -> str:
    """The expiring stream of a run's live tokens and steps. Who does not know `live_key` does not know its name.

    Runs of former versions have the key `""`.
    """
    return f"{RUN_STREAM_PREFIX}{run_id}.{live_key}" if live_key else RUN_STREAM_PREFIX + run_id


def cancelled_key(task_id: str) -> str:
    """The Redis key whose existence tells a working agent that its task was cancelled."""
    return CANCELLED_KEY_PREFIX + task_id


def login_key(digest: str) -> str:
    """The expiring Redis key of a login that is on its way through the OpenID provider."""
    return LOGIN_KEY_PREFIX + digest


def run_workflow_id(run_id: str) -> str:
    """The Temporal workflow id of a run."""
    return f"run-{run_id}"


def workflow_source(workflow: str) -> str:
    """Who writes the events of a run."""
    return f"/workflows/{RAG_WORKFLOW if workflow == QUESTION else workflow}"


def service_source(name: str) -> str:
    """Who writes the events that a trusted service appends by the API."""
    return f"{SERVICE_PREFIX}{name}"


def action_workflow_id(action_id: str) -> str:
    """The Temporal workflow id of a governed action."""
    return f"action-{action_id}"


def order_workflow_id(tenant_id: str, order_id: str) -> str:
    """The Temporal workflow id of an order. Former versions made `order-<tenant>-<order>`, which two orders can share;
    the order's row holds the id of its own workflow."""
    return join_id_parts("order", tenant_id, order_id)


def task_workflow_id(task_id: str) -> str:
    """The Temporal workflow id of a pipeline task."""
    return f"task-{task_id}"


def session_key(tenant_id: str, session_id: str) -> str:
    """The Kafka key of a session's events, `<tenant>/<session>`."""
    return join_id_parts(tenant_id, session_id)


def token_budget_name(payer: TokenPayer, day: date, name: str = "") -> str:
    """The budget of a UTC day's tokens that `payer` draws on; a tenant needs no name."""
    return f"day:{day.isoformat()}" if payer == "tenant" else f"{payer}:{day.isoformat()}:{name}"


def join_id_parts(*parts: str) -> str:
    """One id of several: joined by `/`, which no part holds unescaped, so that different parts give different ids."""
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
