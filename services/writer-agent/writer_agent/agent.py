"""The writer agent: an answer that cites the passages it was given."""

from dataclasses import dataclass, replace

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import DRAFT_COMPLETED, Passage, Turn, WriteResult, WriteTask
from flotilla.llm import best_quote, confidence_of
from writer_agent.prompt import prompt
from writer_agent.tool_loop import Budget, ToolLoop, Written

NO_PASSAGES = "The documents say nothing about this: no passage in them has words of the question."
NO_MODEL = "none"


@dataclass(frozen=True, slots=True)
class Writing:
    """How answers are written."""

    tools: tuple[str, ...]
    budget: Budget
    history_turns: int


def writer(writing: Writing) -> Agent:
    """The agent `write`."""
    agent = Agent("write", version="1", announces=DRAFT_COMPLETED)

    @agent.task
    async def write(ctx: TaskContext, task: WriteTask) -> WriteResult:
        """The answer, with the sources that it cites, or that the documents have none."""
        if not task.passages:
            return await _without_passages(ctx)
        history = await _history(ctx, task, writing.history_turns)
        loop = ToolLoop(
            ctx=ctx,
            query=task.query,
            passages=list(task.passages),
            messages=list(prompt(task.query, task.passages, history)),
            tools=writing.tools,
            budget=writing.budget,
        )
        return _result(await loop.run())

    return agent


async def _without_passages(ctx: TaskContext) -> WriteResult:
    await ctx.emit_token(NO_PASSAGES)
    return WriteResult(
        answer=NO_PASSAGES, sources=[], confidence=0.0, confidence_basis="retrieval_scores", model=NO_MODEL
    )


async def _history(ctx: TaskContext, task: WriteTask, turns: int) -> list[Turn]:
    """The turns that came with the task; a task outside a run brings none, so they are looked up."""
    known = task.history if task.history or ctx.run_id or not turns else await ctx.session.turns(turns)
    return known[-turns:] if turns else []


def _result(written: Written) -> WriteResult:
    answer = written.citations.text.strip()
    sources = [_quoting(written.passages[number - 1], answer) for number in written.citations.cited]
    confidence = confidence_of(written.completion, sources)
    return WriteResult(
        answer=answer,
        sources=sources,
        confidence=confidence.value,
        confidence_basis=confidence.basis,
        model=written.completion.model,
        usage=written.usage,
        finish_reason=written.completion.finish_reason,
    )


def _quoting(passage: Passage, answer: str) -> Source:
    return replace(passage.source, quote=best_quote(passage.text, answer))
