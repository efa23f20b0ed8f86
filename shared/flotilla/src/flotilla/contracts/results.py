"""References to results that are too large for a workflow's history: the row in `flotilla.agent_tasks` holds them."""

import hashlib

import msgspec

from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tasks import ResultReference

_SUMMARY_CHARACTERS = 200


def canonical_bytes(result: JsonObject) -> bytes:
    """Return the bytes that a result's hash and size are over: JSON with sorted keys, the same after a trip through
    jsonb."""
    return msgspec.json.encode(result, order="sorted")


def result_reference(task_id: str, result: JsonObject) -> ResultReference:
    """Return the reference to a task's stored result, with its first text as the summary."""
    body = canonical_bytes(result)
    summary = next((value for value in result.values() if isinstance(value, str)), to_json(result).decode())
    return ResultReference(
        task_id=task_id,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        summary=summary[:_SUMMARY_CHARACTERS],
    )
