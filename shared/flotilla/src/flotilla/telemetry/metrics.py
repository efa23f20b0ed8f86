"""Every metric of the fleet, declared once. Dashboards and alerts are tested against this list.

Each process exposes only those it touches: a labelled metric without observations has no samples.
"""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

TASK_RESTARTS = Counter(
    "flotilla_task_restarts", "Long-lived tasks that ended before they were asked to stop.", ["task"]
)

RUNS = Counter("flotilla_runs", "Runs finished.", ["status"])
RUN_DURATION = Histogram("flotilla_run_duration_seconds", "From request to end of a run.", buckets=_SLOW)

BUS_ENTRIES = Counter("flotilla_bus_entries", "Entries taken off a stream.", ["stream", "group", "outcome"])
BUS_HANDLER = Histogram("flotilla_bus_handler_seconds", "Time in a handler.", ["stream", "group"], buckets=_SLOW)
BUS_DELIVERY_DELAY = Histogram(
    "flotilla_bus_delivery_delay_seconds",
    "From XADD to the handler's start.",
    ["stream", "group"],
    buckets=_SLOW,
)
BUS_RECLAIMED = Counter("flotilla_bus_reclaimed", "Entries taken over from a silent consumer.", ["stream", "group"])
BUS_LOST_ENTRIES = Counter(
    "flotilla_bus_lost_entries", "Pending entries whose body was trimmed away.", ["stream", "group"]
)
STREAM_LAG = Gauge("flotilla_stream_lag_entries", "Entries not yet delivered to the group.", ["stream", "group"])
STREAM_PENDING = Gauge("flotilla_stream_pending_entries", "Delivered, not acknowledged.", ["stream", "group"])
STREAMS_RESET = Counter("flotilla_streams_reset", "Streams made again after an id ahead of the clock.", ["stream"])
DEAD_LETTERS = Gauge("flotilla_dead_letters", "Dead letters that wait for a person (capped at 10001).", ["stream"])
DEAD_LETTERS_NOT_KEPT = Counter(
    "flotilla_dead_letters_not_kept",
    "Replies of no use beyond the dead letters that their agent may leave.",
    ["stream"],
)
TASKS_REFUSED = Counter("flotilla_tasks_refused", "Tasks that their agent did not work on.", ["agent", "reason"])
ROUTED_TASKS = Counter(
    "flotilla_routed_tasks",
    "Tasks of agents with a route: first, kept or moved from a version.",
    ["agent", "version", "how"],
)
REPLIES_REFUSED = Counter("flotilla_replies_refused", "Replies that did not count.", ["agent", "reason"])
REDIS_DENIED = Counter("flotilla_redis_denied", "Commands and keys that Redis denied a user of its own.", ["user"])

OUTBOX_BACKLOG = Gauge("flotilla_outbox_backlog_rows", "Outbox rows not yet in Kafka (capped at 10001).")
OUTBOX_OLDEST = Gauge("flotilla_outbox_oldest_unpublished_seconds", "Age of the oldest outbox row.")
OUTBOX_PUBLISHED = Counter("flotilla_outbox_published", "Events acknowledged by Kafka.")
OUTBOX_PUBLISH_DELAY = Histogram(
    "flotilla_outbox_publish_delay_seconds", "From commit to Kafka's acknowledgement.", buckets=_FAST
)
OUTBOX_PARKED = Gauge("flotilla_outbox_parked_keys", "Sessions parked because Kafka refused an event.")

AUDIT_LAG = Gauge("flotilla_audit_lag_events", "Events in Kafka not yet projected.", ["partition"])
AUDIT_PROJECTED = Counter("flotilla_audit_projected", "Events written to the projection.")
AUDIT_GAPS = Counter("flotilla_audit_gaps", "Missing sequence numbers met.")
AUDIT_DUPLICATES = Counter("flotilla_audit_duplicates", "Duplicates dropped.")
AUDIT_CONFLICTS = Counter("flotilla_audit_conflicts", "Two different events with one sequence number.")
AUDIT_FORBIDDEN = Gauge("flotilla_audit_forbidden_events", "Parked events of kinds that their sources may not write.")
AUDIT_LOG_LOST = Counter("flotilla_audit_log_lost", "Kafka lacked records that had been read.", ["partition"])
AUDIT_CHECKPOINTS_LOST = Counter(
    "flotilla_audit_checkpoints_lost", "Signed checkpoints that PostgreSQL lost and Kafka has.", ["partition"]
)
AUDIT_LOG_TREE_DIVERGED = Counter(
    "flotilla_audit_log_tree_diverged", "Lost checkpoints whose entries do not follow from the tree.", ["partition"]
)
AUDIT_COSIGNED_AGE = Gauge(
    "flotilla_audit_cosigned_age_seconds", "Since enough witnesses cosigned the newest checkpoint.", ["partition"]
)
AUDIT_WITNESS_FAILURES = Counter(
    "flotilla_audit_witness_failures", "Checkpoints that a witness did not cosign.", ["witness", "reason"]
)
AUDIT_STAMP_FAILURES = Counter(
    "flotilla_audit_stamp_failures", "Checkpoints that the time-stamp authority did not stamp."
)
AUDIT_PARKED = Gauge("flotilla_audit_parked_sessions", "Sessions parked by a gap or a conflict.")
AUDIT_UNDECODABLE = Gauge("flotilla_audit_undecodable_records", "Records in Kafka that are not session events.")
AUDIT_CHECKPOINT_AGE = Gauge("flotilla_audit_checkpoint_age_seconds", "Since the last checkpoint.", ["partition"])

APPROVALS_PENDING = Gauge("flotilla_approvals_pending", "Approvals that wait for a person (capped at 10001).")
APPROVAL_OLDEST = Gauge("flotilla_approval_oldest_pending_seconds", "Age of the oldest pending approval.")
APPROVALS_OVERDUE = Gauge("flotilla_approvals_overdue", "Pending approvals past their reminder.")
APPROVAL_DECISIONS = Counter("flotilla_approval_decisions", "Decisions made.", ["decision"])
SIGNATURES_REFUSED = Counter(
    "flotilla_signatures_refused", "Votes or executions whose signatures did not hold.", ["where"]
)
IMPERSONATIONS_REFUSED = Counter(
    "flotilla_impersonations_refused", "Requests to act as somebody else that were refused.", ["kind"]
)

SESSION_KEYS = Histogram(
    "flotilla_session_keys_seconds", "Answering agents that ask for the key of a session, by outcome.", ["outcome"]
)

SAGA_COMPENSATIONS = Counter("flotilla_saga_compensations", "Compensations by outcome.", ["outcome"])
SAGA_PARKED = Gauge("flotilla_saga_parked_compensations", "Compensations that wait for an operator.")

MCP_CONNECTED = Gauge("flotilla_mcp_connected", "Whether an MCP server is connected.", ["server"])
MCP_CHANGED = Gauge("flotilla_mcp_tools_changed", "Allowed tools that their server describes otherwise.", ["server"])
MCP_CALLS = Histogram(
    "flotilla_mcp_call_seconds", "Until an MCP server's answer.", ["server", "outcome"], buckets=_SLOW
)
MCP_REFUSED = Counter("flotilla_mcp_refused", "Calls of MCP tools that were not made.", ["server", "reason"])

LLM_TOKENS = Counter("flotilla_llm_tokens", "Tokens, input or output.", ["model", "direction"])
LLM_CALL_DURATION = Histogram("flotilla_llm_call_duration_seconds", "Time of a model call.", ["model"], buckets=_SLOW)
LLM_SPEND = Counter("flotilla_llm_spend", "Money spent on model calls.", ["model", "agent", "currency"])
LLM_REFUSED = Counter("flotilla_llm_budget_refusals", "Calls for which a budget in money did not suffice.", ["budget"])
LLM_FALLBACKS = Counter("flotilla_llm_fallbacks", "Calls that the next model of a chain got.", ["model", "reason"])
LLM_CACHE_HITS = Counter("flotilla_llm_cache_hits", "Stored answers used instead of a second call.")

HTTP_DURATION = Histogram(
    "flotilla_http_request_duration_seconds",
    "Time of a request.",
    ["route", "method", "status"],
    buckets=_SLOW,
)
