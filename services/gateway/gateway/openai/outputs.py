"""What a run answered, as OpenAI's clients are shown it: an answer, or what a workflow returned as text."""

from collections.abc import Mapping
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.requests import RAGResponse
from flotilla.contracts.tasks import TokenUsage
from flotilla.postgres import tenant_transaction
from gateway.openai.formats import format_violation
from gateway.runs.cited import with_cited_documents
from gateway.schemas.runs import Run
from gateway.services import GatewayServices

_USAGE = """
SELECT coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(output_tokens), 0)::bigint AS output_tokens
FROM flotilla.llm_calls WHERE tenant_id = $1 AND run_id = $2
"""


async def run_for_caller(services: GatewayServices, tenant_id: str, run: Run, parameters: Mapping[str, Any]) -> Run:
    """Return the run with no source that the caller may not read, what a workflow returned as its answer, and as failed
    where that is not of the format that the client wanted."""
    [run] = await with_cited_documents(services.knowledge, tenant_id, [run])
    wanted = parameters.get("format")
    if run.result is None and run.output is not None:
        text = _text_of(run.output, is_json=wanted is not None)
        answer = RAGResponse(text, sources=[], confidence=0.0, usage=await _usage(services, tenant_id, run))
        run = run.model_copy(update={"result": answer})
    if wanted is None or run.result is None:
        return run
    reason = await format_violation(services.run_confined, wanted, run.result.answer)
    if reason is None:
        return run
    error = {"type": "WrongFormat", "message": f"the answer is not of the format that was asked for: {reason}"}
    return run.model_copy(update={"result": None, "status": "error", "error": error})


def _text_of(output: Mapping[str, Any], *, is_json: bool) -> str:
    """Return what a workflow returned as text: its only field where that is one, else JSON."""
    values = list(output.values())
    if not is_json and len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return to_json(output).decode()


async def _usage(services: GatewayServices, tenant_id: str, run: Run) -> TokenUsage:
    async with tenant_transaction(services.pool, tenant_id) as connection:
        row = await connection.fetchrow(_USAGE, tenant_id, run.run_id)
    return TokenUsage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"]) if row else TokenUsage()
