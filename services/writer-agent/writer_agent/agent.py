"""The writer agent: an answer that cites the passages it was given."""

from dataclasses import dataclass, field, replace

from flotilla.agent import Agent, TaskContext
from flotilla.answers.calibration import Calibration, Calibrations
from flotilla.answers.features import features_of_answer, features_of_search
from flotilla.answers.support import OverlapChecker
from flotilla.answers.words import Terms, analysis_for_passages
from flotilla.contracts.session_events import Source, StateChange
from flotilla.contracts.tasks import DRAFT_COMPLETED, Passage, Turn, WriteResult, WriteTask
from flotilla.llm import NOTHING_FOUND, best_sentence
from writer_agent.checking import check_statements, judge_statements, supported_share
from writer_agent.confidence import confidence_of_answer
from writer_agent.prompt import SYSTEM_PROMPT, build_prompt
from writer_agent.tool_loop import AnswerBudget, ToolCallLoop, WrittenAnswer

NO_PASSAGES = "The documents say nothing about this: no passage in them has words of the question."
NO_MODEL = "none"


@dataclass(frozen=True, slots=True)
class AnswerWriting:
    """How answers are written."""

    tools: tuple[str, ...]
    budget: AnswerBudget
    history_turns: int
    overlap: OverlapChecker = field(default_factory=OverlapChecker)
    has_judge: bool = False
    """Whether the model checks its sentences in a second call."""
    calibrations: Calibrations | None = None
    """Of models' answers."""
    abstains: bool = True
    language: str = "en"
    """Of passages that do not show theirs."""

    def calibration(self, model: str) -> Calibration | None:
        """Return the calibration of the model's answers, if there is one."""
        return self.calibrations.of(model) if self.calibrations else None


def create_writer_agent(writing: AnswerWriting) -> Agent:
    """The agent `write`."""
    agent = Agent("write", version="1", announces=DRAFT_COMPLETED, replayable=True)

    @agent.task
    async def write(ctx: TaskContext, task: WriteTask) -> WriteResult:
        """The answer, with the sources that it cites, or that the documents have none."""
        if not task.passages:
            return await _decline(ctx, task, NO_PASSAGES, {})
        found = features_of_search(task.searched_for or task.query, task.passages, writing.language)
        calibration = writing.calibration(ctx.model_name)
        if writing.abstains and calibration and calibration.abstains(found):
            chance = calibration.answerable_probability(found) or 0.0
            ctx.record("state_change", StateChange(change="question_declined", details={"answerable": chance, **found}))
            return await _decline(ctx, task, NOTHING_FOUND, found)
        history = await _history(ctx, task, writing.history_turns)
        loop = ToolCallLoop(
            ctx=ctx,
            query=task.searched_for or task.query,
            passages=list(task.passages),
            messages=list(build_prompt(task.query, task.passages, history, ctx.prompt(SYSTEM_PROMPT))),
            tools=writing.tools,
            budget=writing.budget,
            overlap=writing.overlap,
        )
        return await _result(ctx, task, writing, await loop.run(), found)

    return agent


async def _decline(ctx: TaskContext, task: WriteTask, text: str, found: dict[str, float]) -> WriteResult:
    """Say that the documents do not answer, without asking the model."""
    await ctx.emit_token(text)
    return WriteResult(
        answer=text,
        sources=[],
        confidence=0.0,
        confidence_basis="calibrated" if found else "retrieval_scores",
        model=NO_MODEL,
        searched_for=_rewritten(task),
        abstained=True,
        features=found,
    )


async def _history(ctx: TaskContext, task: WriteTask, turns: int) -> list[Turn]:
    """The turns that came with the task; a task outside a run brings none, so they are looked up."""
    known = task.history if task.history or ctx.run_id or not turns else await ctx.session.turns(turns)
    return known[-turns:] if turns else []


async def _result(
    ctx: TaskContext, task: WriteTask, writing: AnswerWriting, written: WrittenAnswer, found: dict[str, float]
) -> WriteResult:
    answer = written.citations.text.strip()
    cited = [written.passages[number - 1] for number in written.citations.cited]
    declined = written.citations.says_unanswered and not cited
    if declined:
        ctx.record("state_change", StateChange(change="question_declined", details={"by": "model", **found}))
    abstained = declined or answer == NOTHING_FOUND
    statements = [] if abstained else await check_statements(answer, cited, writing.overlap)
    if writing.has_judge and statements:
        statements = await judge_statements(ctx, answer, statements, cited)
    features = found | features_of_answer(written.completion, statements)
    terms = analysis_for_passages(cited, writing.language)
    sources = [_quoting(passage, answer, terms) for passage in cited]
    confidence = confidence_of_answer(
        written.completion, sources, features, supported_share(statements), writing.calibration(ctx.model_name)
    )
    return WriteResult(
        answer=answer,
        sources=sources,
        confidence=confidence.value,
        confidence_basis=confidence.basis,
        model=written.completion.model,
        usage=written.usage,
        finish_reason=written.completion.finish_reason,
        searched_for=_rewritten(task),
        abstained=abstained,
        statements=statements,
        dropped_citations=written.dropped,
        features=features,
    )


def _rewritten(task: WriteTask) -> str:
    return task.searched_for if task.searched_for != task.query else ""


def _quoting(passage: Passage, answer: str, terms: Terms) -> Source:
    return replace(passage.source, quote=best_sentence(passage.text, answer, terms))
