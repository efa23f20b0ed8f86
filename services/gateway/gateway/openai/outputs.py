"""What a run answered, as OpenAI's clients are shown it: an answer, or what a workflow returned as text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.requests import RAGResponse
from flotilla.contracts.tasks import TokenUsage
from flotilla.postgres import tenant_transaction
from gateway.openai.formats import format_violation
from gateway.openai.functions import calls_of, reply_of
from gateway.schemas.runs import Run
from gateway.services import GatewayServices

_SELECT_USAGE_LLM_CALLS = """
SELECT coalesce(sum(input_tokens), 0)::bigint AS input_tokens, coalesce(sum(output_tokens), 0)::bigint AS output_tokens
FROM flotilla.llm_calls WHERE tenant_id = $1 AND run_id = $2
"""


def with_answer(run: Run, parameters: Mapping[str, Any]) -> Run:
    """Return the run with what a workflow returned as its answer; as failed where that is no reply."""
    if run.result is not None or run.output is None:
        return run
    try:
        return run.model_copy(update={"result": _answer_of(run, parameters)})
    except ValueError as error:
        return _wrong(run, f"the workflow's output is no reply: {error}")


async def run_for_caller(services: GatewayServices, tenant_id: str, run: Run, parameters: Mapping[str, Any]) -> Run:
    """Return the run with what a workflow returned as its answer, and as failed where that is not of the format that
    the client wanted."""
    wanted, is_output = parameters.get("format"), run.result is None
    run = with_answer(run, parameters)
    if is_output and run.result is not None:
        answer = replace(run.result, usage=await _usage(services, tenant_id, run))
        run = run.model_copy(update={"result": answer})
    if wanted is None or run.result is None or calls_of(run, parameters):
        return run
    reason = await format_violation(services.run_confined, wanted, run.result.answer)
    if reason is None:
        return run
    return _wrong(run, f"the answer is not of the format that was asked for: {reason}")


def _answer_of(run: Run, parameters: Mapping[str, Any]) -> RAGResponse:
    """What a workflow returned as an answer: what it replied in a conversation, else its output as text."""
    reply = reply_of(run, parameters)
    if reply is None:
        return RAGResponse(_text_of(run.output or {}, is_json="format" in parameters), sources=[], confidence=0.0)
    reason = reply.finish_reason
    return RAGResponse(reply.text, sources=[], confidence=0.0, finish_reason=reason, model=reply.model)


def _wrong(run: Run, message: str) -> Run:
    error = {"type": "WrongFormat", "message": message}
    return run.model_copy(update={"result": None, "status": "error", "error": error})


def _text_of(output: Mapping[str, Any], *, is_json: bool) -> str:
    """Return what a workflow returned as text: its only field where that is one, else JSON."""
    values = list(output.values())
    if not is_json and len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return to_json(output).decode()


async def _usage(services: GatewayServices, tenant_id: str, run: Run) -> TokenUsage:
    async with tenant_transaction(services.pool, tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_USAGE_LLM_CALLS, tenant_id, run.run_id)
    return TokenUsage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"]) if row else TokenUsage()
