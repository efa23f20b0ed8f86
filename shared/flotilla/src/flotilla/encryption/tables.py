"""The tables with encrypted columns. What a column of `Members` does not list stays clear: ids, names of people and
agents, and what statements filter by."""

from types import MappingProxyType

from flotilla.contracts.json_types import JsonValue
from flotilla.encryption.cipher import ERASED
from flotilla.encryption.columns import Bytes, Items, Json, Members, SealedTable, Text, Texts, Wrapped

_ERROR = Members({"message": ERASED})
"""Of errors the type, the place and the attempt stay clear."""
_ANSWER: JsonValue = {"answer": ERASED, "sources": [], "confidence": 0.0}
STAND_IN: JsonValue = {"text": ERASED}
"""For any object."""
RUN_REQUEST = Members(
    {
        "query": ERASED,
        "history": [],
        "input": STAND_IN,
        "carried": {},
        "replay.calls": [],
        "replay.history": [],
        "replay.prompts": {},
    }
)

RUNS = SealedTable(
    "runs",
    "run_id",
    MappingProxyType(
        {
            "query": Text(),
            "request": RUN_REQUEST,
            "input": Json(STAND_IN, of="request.input"),
            "result": Json(_ANSWER),
            "output": Json(STAND_IN),
            "error": _ERROR,
        }
    ),
)
INTERACTIONS = SealedTable(
    "interactions", "interaction_id", MappingProxyType({"query": Text(), "answer": Text(), "sources": Json([])})
)
AGENT_TASKS = SealedTable(
    "agent_tasks",
    "task_id",
    MappingProxyType(
        {
            "result": Wrapped(STAND_IN),
            "failure": Members({"message": ERASED, "approvals": [], "calls": []}),
        }
    ),
)
PIPELINES = SealedTable(
    "pipelines", "task_id", MappingProxyType({"request": Members({"input": STAND_IN}), "error": _ERROR})
)
AGENT_ACTIONS = SealedTable("agent_actions", "task_id", MappingProxyType({"payload": Json(STAND_IN)}))
TOOL_CALLS = SealedTable(
    "tool_calls", "call_id", MappingProxyType({"called": Json(STAND_IN), "result": Json(), "error": Text()})
)
LLM_CALLS = SealedTable("llm_calls", "place", MappingProxyType({"answer": Json({"text": ERASED, "model": ""})}))
PUBLICATIONS = SealedTable("runs", "run_id", MappingProxyType({"answer": Json(_ANSWER, of="result")}))
"""A copy of the run's result, as it is stored."""
FEEDBACK = SealedTable("feedback", "place", MappingProxyType({"comment": Text()}))

ACTIONS = SealedTable(
    "actions",
    "action_id",
    MappingProxyType(
        {
            "description": Text(),
            "args": Json({}),
            "request": Members({"description": ERASED, "args": {}}),
            "result": Json(),
            "error": _ERROR,
            "votes": Items(("reason",)),
        }
    ),
)
APPROVALS = SealedTable(
    "actions",
    "approval_id",
    MappingProxyType(
        {
            "description": Text(),
            "args": Json({}),
            "reasons": Texts(),
            "requirement": Members({"args": {}, "reasons": [ERASED]}),
            "votes": Items(("reason",)),
            "action_result": Json(of="result"),
            "action_error": Members({"message": ERASED}, of="error"),
        }
    ),
)
"""Of the action of that id: what people are asked about is what the action shows, so both have one place."""
DECISIONS = SealedTable("approval_decisions", "attempt_id", MappingProxyType({"reason": Text(), "args": Json({})}))
EXECUTIONS = SealedTable("action_executions", "action_id", MappingProxyType({"result": Json()}))
WEBHOOKS = SealedTable("webhook_deliveries", "delivery_id", MappingProxyType({"body": Bytes()}))
NOTICES = SealedTable("run_notices", "delivery_id", MappingProxyType({"body": Bytes()}))
QUESTIONS = SealedTable(
    "questions",
    "question_id",
    MappingProxyType({"question": Text(), "answer_schema": Json({}), "answer": Json(STAND_IN)}),
)
RUN_EVENTS = SealedTable("run_events", "event_id", MappingProxyType({"data": Json(STAND_IN)}))
ORDERS = SealedTable(
    "orders",
    "order_id",
    MappingProxyType(
        {
            "product_id": Text(),
            "reason": Text(),
            "steps": Items(("error",)),
            "request": Members({"product_id": ERASED}),
        }
    ),
)
OPENAI_REQUESTS = SealedTable("openai_requests", "run_id", MappingProxyType({"parameters": Json({})}))
DEAD_LETTERS = SealedTable("dead_letters", "dead_letter_id", MappingProxyType({"error": Text(), "body": Bytes()}))
