"""What the tables hold of a person, as data: which columns an export has, and how its rows are found.

Not exported: credentials and their hashes, what only repeats other rows (outbox, deliveries, delegations, places in
indexes), and legal holds, which may be secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import msgspec

from flotilla.encryption import SealedTable, tables
from flotilla.postgres import Connection, open_rows

PAGE = 200
_OF_RUN = "(SELECT r.session_id FROM flotilla.runs AS r WHERE r.tenant_id = $1 AND r.run_id = {0}.run_id)"
_OF_APPROVAL = """(SELECT a.session_id FROM flotilla.approvals AS a
    WHERE a.tenant_id = $1 AND a.approval_id = {0}.approval_id)"""
# By table: which columns are encrypted, whose session's key opens them, and what names the row for its ciphertexts.
_ENCRYPTED: Mapping[str, tuple[SealedTable, str, str]] = {
    "runs": (tables.RUNS, "session_id", "run_id"),
    "interactions": (tables.INTERACTIONS, "session_id", "interaction_id"),
    "agent_actions": (tables.AGENT_ACTIONS, "session_id", "task_id"),
    "agent_tasks": (tables.AGENT_TASKS, "session_id", "task_id"),
    "llm_calls": (
        tables.LLM_CALLS,
        "session_id",
        "task_id || '/' || call_index || '/' || encode(request_hash, 'hex')",
    ),
    "tool_calls": (tables.TOOL_CALLS, "session_id", "call_id"),
    "actions": (tables.ACTIONS, "session_id", "action_id"),
    "approvals": (tables.APPROVALS, "session_id", "approval_id"),
    "approval_decisions": (tables.DECISIONS, _OF_APPROVAL, "attempt_id"),
    "publications": (tables.PUBLICATIONS, _OF_RUN, "run_id"),
    "orders": (tables.ORDERS, "session_id", "order_id"),
    "pipelines": (tables.PIPELINES, "session_id", "task_id"),
    "questions": (tables.QUESTIONS, "session_id", "question_id"),
    "run_events": (tables.RUN_EVENTS, _OF_RUN, "event_id"),
    "run_notices": (tables.NOTICES, _OF_RUN, "delivery_id"),
    "feedback": (tables.FEEDBACK, _OF_RUN, "run_id || '/' || given_by"),
    "dead_letters": (tables.DEAD_LETTERS, "session_id", "dead_letter_id"),
    "openai_requests": (tables.OPENAI_REQUESTS, "session_id", "run_id"),
}
_OF_RUNS = "run_id IN (SELECT r.run_id FROM flotilla.runs AS r WHERE r.tenant_id = $1 AND r.session_id = ANY($2))"
_OF_APPROVALS = """approval_id IN (
    SELECT a.approval_id FROM flotilla.approvals AS a WHERE a.tenant_id = $1 AND a.session_id = ANY($2))"""


@dataclass(frozen=True, slots=True)
class Holding:
    """Rows of one table."""

    name: str
    """Of the file in the archive."""
    table: str
    key: tuple[str, ...]
    """The columns that order the rows, and name each."""
    columns: tuple[str, ...]
    """The others; `:j` marks those of JSON."""
    where: str
    """Finds them by `$2`."""
    page: int = PAGE

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The names of all columns, without marks."""
        return (*self.key, *(column.partition(":")[0] for column in self.columns if column not in self.key))

    @property
    def json_columns(self) -> frozenset[str]:
        """The names of those that hold JSON."""
        return frozenset(column[:-2] for column in self.columns if column.endswith(":j"))

    @property
    def _opening(self) -> tuple[str, ...]:
        """What is selected to open encrypted columns."""
        if self.table not in _ENCRYPTED:
            return ()
        _, session, name = _ENCRYPTED[self.table]
        return f"{session.format(self.table)} AS of_session", f"{name} AS of_row"

    async def opened(
        self, connection: Connection, tenant_id: str, rows: Sequence[asyncpg.Record]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows with encrypted columns decrypted."""
        if self.table not in _ENCRYPTED:
            return [dict(row) for row in rows]
        table = replace(_ENCRYPTED[self.table][0], key="of_row")
        own = [{**row, "session_id": row["of_session"]} for row in rows]
        return await open_rows(connection, tenant_id, table, own)

    def statement(self, *, goes_on: bool) -> str:
        """The next page; where it goes on, behind the key in the last parameters."""
        key = ", ".join(self.key)
        behind = ", ".join(f"${number}" for number in range(3, 3 + len(self.key)))
        rest = f"AND ({key}) > ({behind}) " if goes_on else ""
        return (
            f"SELECT {', '.join((*self.all_columns, *self._opening))} "  # noqa: S608 - constants of this module
            f"FROM flotilla.{self.table} "
            f"WHERE tenant_id = $1 AND {self.where} {rest}ORDER BY {key} LIMIT {self.page}"
        )


def _of_sessions(
    table: str, key: str, columns: str, *, name: str = "", where: str = "session_id = ANY($2)", page: int = PAGE
) -> Holding:
    own = "" if where != "session_id = ANY($2)" else "session_id "
    return Holding(name or table, table, tuple(key.split()), tuple((own + columns).split()), where, page)


OF_SESSIONS: Sequence[Holding] = (
    _of_sessions(
        "sessions",
        "session_id",
        "user_id owner visibility readers writers kind parent_session_id forked_at_seq metadata:j acted_by created_at",
    ),
    _of_sessions(
        "runs",
        "run_id",
        "user_id workflow status query request:j result:j output:j error:j metadata:j notify:j schedule_id "
        "parent_run_id person service acted_by reads_as created_at started_at finished_at",
    ),
    _of_sessions("interactions", "interaction_id", "user_id run_id query answer sources:j created_at"),
    _of_sessions("agent_actions", "action_seq", "agent_id task_id action_type payload:j created_at"),
    _of_sessions(
        "agent_tasks", "task_id", "agent run_id status attempt result:j failure:j created_at finished_at duration_ms"
    ),
    _of_sessions(
        "llm_calls",
        "task_id call_index request_hash",
        "run_id agent model answer:j input_tokens output_tokens duration_ms created_at",
        name="model_calls",
    ),
    _of_sessions(
        "tool_calls",
        "task_id tool args_hash occurrence start_no",
        "call_id agent called:j approval_id started_at finished_at outcome result:j error",
    ),
    _of_sessions(
        "actions",
        "action_id",
        "action description args:j risk_level requested_by status approval_status result:j error:j request:j "
        "created_at finished_at",
    ),
    _of_sessions(
        "approvals",
        "approval_id",
        "run_id task_id action description args:j content_hash risk_level reasons requested_by on_behalf_of "
        "requirement:j policy_version quorum status votes:j created_at deadline_at decided_at",
    ),
    _of_sessions(
        "approval_decisions",
        "approval_id attempt_id",
        "subject decision content_hash reason args:j outcome refusal answer:j created_at",
        where=_OF_APPROVALS,
    ),
    _of_sessions("publications", "run_id", "action_id answer:j published_at", where=_OF_RUNS),
    _of_sessions(
        "orders",
        "order_id",
        "user_id product_id amount_minor currency status confirmation reason approval steps:j request:j created_at "
        "finished_at",
    ),
    _of_sessions(
        "pipelines",
        "task_id",
        "user_id steps status request:j result_task_id error:j acted_by person service created_at finished_at",
        name="tasks",
    ),
    _of_sessions(
        "questions",
        "question_id",
        "run_id question answer_schema:j roles status answer:j answered_by acted_by created_at closed_at",
    ),
    _of_sessions("run_events", "run_id event_id", "name data:j sent_by created_at", where=_OF_RUNS),
    _of_sessions(
        "run_notices", "run_id number", "kind url body status created_at delivered_at", where=_OF_RUNS, page=50
    ),
    _of_sessions("feedback", "run_id given_by", "verdict comment given_at", where=_OF_RUNS),
    _of_sessions(
        "dead_letters",
        "dead_letter_id",
        "stream task_id run_id event_type reason error body fields:j created_at redriven_at discarded_at",
        page=20,
    ),
    _of_sessions("mcp_calls", "call_id", "is_run principal request created_at"),
    _of_sessions("openai_requests", "run_id", "principal parameters:j created_at"),
    _of_sessions(
        "documents",
        "document_id",
        "uri title media_type size_bytes body readers attached_to created_at updated_at",
        name="attachments",
        where="attached_to = ANY($2)",
        page=10,
    ),
)
"""Of the sessions that are a person's; `$2` are their ids."""


def _of_person(table: str, key: str, columns: str, where: str, *, name: str = "", page: int = PAGE) -> Holding:
    return Holding(name or table, table, tuple(key.split()), tuple(columns.split()), where, page)


OF_PERSON: Sequence[Holding] = (
    _of_person("feedback", "run_id", "verdict comment given_at", "given_by = $2", name="own_feedback"),
    _of_person(
        "schedules",
        "schedule_id",
        "request:j workflow metadata:j paused note user_id acted_by owner visibility created_at updated_at deleted_at",
        "owner = $2",
    ),
    _of_person(
        "llm_spend",
        "id",
        "task_id run_id session_id agent model service input_tokens cached_input_tokens output_tokens nanos currency "
        "spent_at",
        "person = $2",
        name="spend",
    ),
    _of_person(
        "openai_files", "file_id", "purpose filename size_bytes content created_at expires_at", "owner = $2", page=1
    ),
    _of_person("sessions", "session_id", "created_at", "$2 = ANY (readers || writers)", name="shared_sessions"),
    _of_person("documents", "document_id", "uri title created_at", "$2 = ANY (readers)", name="readable_documents"),
    _of_person(
        "erasures",
        "erasure_id",
        "reason requested_by requested_at confirmed_by confirmed_at finished_at",
        "person = $2",
    ),
    _of_person(
        "privacy_requests",
        "request_id",
        "kind reason requested_by requested_at confirmations_needed confirmed_at",
        "person = $2",
    ),
)
"""Of a person wherever it is; `$2` is who, as `flotilla.contracts.identity` writes them."""
OF_SUBJECT: Sequence[Holding] = (
    _of_person("people", "subject", "display_name roles created_at", "subject = $2"),
    _of_person("api_keys", "key_id", "name subject roles created_by created_at expires_at revoked_at", "subject = $2"),
    _of_person(
        "signers", "signer_id", "subject kind name fingerprint roles approved_by approved_at revoked_at", "subject = $2"
    ),
    _of_person(
        "approval_decisions",
        "approval_id attempt_id",
        "decision content_hash reason args:j outcome refusal created_at",
        "subject = $2",
        name="own_decisions",
    ),
    _of_person(
        "questions",
        "question_id",
        "question answer:j closed_at",
        "answered_by = $2",
        name="own_answers",
    ),
    _of_person("accounts", "user_id currency", "available_minor spent_minor verified updated_at", "user_id = $2"),
    _of_person("idempotency_keys", "route key", "resource_id created_at", "principal = $2"),
)
"""What names the subject alone; `$2` is it."""


async def read_page(
    connection: Connection, tenant_id: str, holding: Holding, of: str | Sequence[str], behind: Sequence[Any] = ()
) -> tuple[list[bytes], Sequence[Any] | None]:
    """Return a page of rows as JSON lines, and the key behind which the next one begins; None behind the last one."""
    rows = await connection.fetch(holding.statement(goes_on=bool(behind)), tenant_id, of, *behind)
    lines = [_line(holding, row) for row in await holding.opened(connection, tenant_id, rows)]
    return lines, [rows[-1][name] for name in holding.key] if len(rows) == holding.page else None


def _line(holding: Holding, row: Mapping[str, Any]) -> bytes:
    """A row as a JSON line; binary values in base64."""
    json_columns = holding.json_columns
    values = {
        name: msgspec.Raw(row[name].encode()) if name in json_columns and row[name] is not None else row[name]
        for name in holding.all_columns
    }
    return msgspec.json.encode(values) + b"\n"
