"""Rows with encrypted columns: what is stored, what is read back, and what erased values read as."""

import json
import os
from dataclasses import fields
from typing import Any

import pytest

from flotilla.contracts.requests import ActionRequest, OrderRequest, PipelineRequest, RAGRequest, WorkflowRequest
from flotilla.encryption import DataKey, SealedTable, opened_columns, sealed_columns, tables
from flotilla.encryption.columns import Members
from flotilla.encryption.keyring import Cipher

CANARY = "5d1c0c8e2f"
CIPHER = Cipher("k1", DataKey(os.urandom(32), "acme", "s1"))
ERASED = Cipher("k1", None)
ROWS: list[tuple[SealedTable, dict[str, Any]]] = [
    (tables.RUNS, {"query": CANARY, "output": json.dumps({"text": CANARY}), "error": json.dumps({"message": CANARY})}),
    (tables.RUNS, {"result": json.dumps({"answer": CANARY, "sources": [], "confidence": 1.0})}),
    (tables.RUNS, {"request": json.dumps({"query": CANARY, "run_id": "r1", "replay": {"prompts": {"a": CANARY}}})}),
    (tables.INTERACTIONS, {"query": CANARY, "answer": CANARY, "sources": json.dumps([{"quote": CANARY}])}),
    (tables.AGENT_TASKS, {"result": json.dumps({"text": CANARY}), "failure": json.dumps({"message": CANARY})}),
    (tables.TOOL_CALLS, {"called": json.dumps({"args": CANARY}), "result": json.dumps(CANARY), "error": CANARY}),
    (tables.LLM_CALLS, {"answer": json.dumps({"text": CANARY, "model": "m"})}),
    (tables.ACTIONS, {"description": CANARY, "args": json.dumps({"a": CANARY}), "result": json.dumps([CANARY])}),
    (tables.APPROVALS, {"reasons": ["rule", CANARY], "votes": json.dumps([{"subject": "bob", "reason": CANARY}])}),
    (tables.QUESTIONS, {"question": CANARY, "answer": json.dumps({"a": CANARY})}),
    (tables.DEAD_LETTERS, {"error": CANARY, "body": CANARY.encode()}),
    (tables.WEBHOOKS, {"body": CANARY.encode() + b"\xff"}),
    (tables.ORDERS, {"product_id": CANARY, "steps": json.dumps([{"name": "pay", "error": CANARY}])}),
]


def stored(table: SealedTable, values: dict[str, Any], cipher: Cipher | None = CIPHER) -> dict[str, Any]:
    return {table.key: "id1", **sealed_columns(cipher, table, "id1", values)}


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with JSON as values."""
    return {n: json.loads(v) if isinstance(v, str) and v[:1] in '{["' else v for n, v in row.items()}


@pytest.mark.parametrize(("table", "values"), ROWS)
def test_a_row_holds_no_word_and_is_read_back(table: SealedTable, values: dict[str, Any]) -> None:
    row = stored(table, values)
    assert CANARY not in str(row)
    opened = opened_columns(CIPHER, table, row)
    assert comparable({name: opened[name] for name in values}) == comparable(values)


@pytest.mark.parametrize(("table", "values"), ROWS)
def test_without_the_key_every_column_keeps_its_form(table: SealedTable, values: dict[str, Any]) -> None:
    row = stored(table, values)
    for cipher, mark in ((ERASED, "[erased]"), (None, "[unreadable]")):
        opened = opened_columns(cipher, table, row)
        assert CANARY not in str(opened)
        assert "flotilla:sealed" not in str(opened)
        for name, value in values.items():
            assert type(opened[name]) is type(value)
            assert mark in str(opened[name]) or json.loads(opened[name]) is not None


@pytest.mark.parametrize(("table", "values"), ROWS)
def test_an_erased_session_keeps_nothing(table: SealedTable, values: dict[str, Any]) -> None:
    row = stored(table, values, ERASED)
    assert CANARY not in str(row)
    opened = opened_columns(ERASED, table, row)
    assert opened == opened_columns(ERASED, table, stored(table, values))


@pytest.mark.parametrize(("table", "values"), ROWS)
def test_rows_from_before_are_read_as_they_are(table: SealedTable, values: dict[str, Any]) -> None:
    row = {table.key: "id1", **values}
    assert opened_columns(CIPHER, table, row) == row


def test_a_ciphertext_of_another_row_or_column_is_not_read() -> None:
    row = stored(tables.INTERACTIONS, {"query": CANARY, "answer": "no"})
    moved = {**row, "answer": row["query"]}
    assert opened_columns(CIPHER, tables.INTERACTIONS, moved)["answer"] == "[unreadable]"
    assert opened_columns(CIPHER, tables.INTERACTIONS, {**row, "interaction_id": "id2"})["query"] == "[unreadable]"


def test_what_statements_look_at_stays_clear() -> None:
    replay = {"of_run": "r0", "model": "m", "prompts": {"write": CANARY}}
    row = stored(tables.RUNS, {"request": json.dumps({"query": CANARY, "steps": ["write"], "replay": replay})})
    request = json.loads(row["request"])
    assert (request["steps"], request["replay"]["of_run"]) == (["write"], "r0")
    failure = stored(tables.AGENT_TASKS, {"failure": json.dumps({"type": "ValueError", "message": CANARY})})["failure"]
    assert json.loads(failure)["type"] == "ValueError"


CLEAR = {
    RAGRequest: {"user_id", "session_id", "tenant_id", "run_id", "steps", "top_k", "schedule_id", "replay"},
    WorkflowRequest: {
        *("workflow", "user_id", "session_id", "tenant_id", "run_id", "version", "task_queue", "requested_through"),
        *("requested_by_service", "acted_by", "schedule_id", "parent_run_id"),
    },
    ActionRequest: {
        *("action", "risk_level", "requested_by", "action_id", "tenant_id", "session_id", "on_behalf_of", "run_id"),
        *("task_id", "requested_through", "requested_by_service"),
    },
    OrderRequest: {"order_id", "user_id", "amount_minor", "currency", "tenant_id", "session_id"},
    PipelineRequest: {"steps", "user_id", "task_id", "tenant_id", "session_id", "timeout_s"},
}
"""Read with care before a name is added: what is here is never encrypted."""


@pytest.mark.parametrize(
    ("request_type", "table"),
    [
        (RAGRequest, tables.RUNS),
        (WorkflowRequest, tables.RUNS),
        (ActionRequest, tables.ACTIONS),
        (OrderRequest, tables.ORDERS),
        (PipelineRequest, tables.PIPELINES),
    ],
)
def test_a_new_field_of_a_request_is_encrypted_or_named_as_clear(request_type: type, table: SealedTable) -> None:
    column = table.columns["request"]
    assert isinstance(column, Members)
    named = {field.name for field in fields(request_type)}
    assert named - set(column.stand_ins) == CLEAR[request_type]
