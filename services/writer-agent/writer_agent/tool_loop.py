"""Asks the model, carries out the tools that it asks for, and asks again, within a budget of steps and of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flotilla.agent import TaskContext
from flotilla.answers.support import OverlapChecker
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Forbidden, Invalid, Refused
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import ErrorRaised, Source, StateChange
from flotilla.contracts.tasks import DroppedCitation, Passage, TokenUsage
from flotilla.llm import ChatMessage, Completion, CompletionRequest, Grounding, ToolRequest, ToolSpec
from writer_agent.citations import CitationRenumberer, UndecidedCitation
from writer_agent.prompt import quote_passages


class ToolStepsSpent(Refused):
    """The model went on asking for tools after its last step."""


class TokensSpent(Refused):
    """The answer used its tokens up before it was finished."""


@dataclass(frozen=True, slots=True)
class AnswerBudget:
    """What one answer may cost."""

    tool_steps: int
    """How often the model may ask for tools."""
    tokens: int
    """Input and output of all calls together."""
    output_tokens: int | None = None
    """Longest single answer; None leaves it to the endpoint."""


@dataclass(slots=True)
class WrittenAnswer:
    """An answer with the passages that its citations may name."""

    completion: Completion
    citations: CitationRenumberer
    passages: list[Passage]
    usage: TokenUsage
    dropped: list[DroppedCitation]


@dataclass(slots=True)
class ToolCallLoop:
    """One answer in the making."""

    ctx: TaskContext
    query: str
    passages: list[Passage]
    messages: list[ChatMessage]
    tools: Sequence[str]
    budget: AnswerBudget
    overlap: OverlapChecker
    usage: TokenUsage = field(default_factory=TokenUsage)
    dropped: list[DroppedCitation] = field(default_factory=list)

    async def run(self) -> WrittenAnswer:
        """The model's answer.

        Raises:
            ToolStepsSpent, TokensSpent: the budget ended first.
            ModelRefused, ModelUnavailable, ModelTimedOut: as the model says.
        """
        for step in range(self.budget.tool_steps + 1):
            last = step == self.budget.tool_steps
            citations = CitationRenumberer(len(self.passages), is_checked=True)
            self.dropped = []
            completion = await self._ask(citations, tool_choice="none" if last else "auto")
            if not completion.tool_calls:
                await self._show(citations.end())
                self._record_dropped()
                return WrittenAnswer(completion, citations, self.passages, self.usage, self.dropped)
            if citations.text:
                await self.ctx.discard_tokens()
            if not last:
                await self._carry_out(completion)
        raise ToolStepsSpent(
            f"the model asked for tools again after {self.budget.tool_steps} steps: "
            "raise FLOTILLA_WRITER_MAX_TOOL_STEPS, or take tools off FLOTILLA_WRITER_TOOLS"
        )

    async def _ask(self, citations: CitationRenumberer, *, tool_choice: str) -> Completion:
        spent = self.usage.input_tokens + self.usage.output_tokens
        if spent >= self.budget.tokens:
            raise TokensSpent(f"{spent} tokens used, {self.budget.tokens} allowed (FLOTILLA_WRITER_MAX_TOKENS)")

        async def show(piece: str) -> None:
            await self._show(citations.feed(piece))
            while (undecided := citations.undecided) is not None:
                await self._show(citations.continue_after(await self._refused(undecided)))

        completion = await self.ctx.llm(self._request(tool_choice=tool_choice), on_token=show)
        self.usage = TokenUsage(
            input_tokens=self.usage.input_tokens + completion.usage.input_tokens,
            output_tokens=self.usage.output_tokens + completion.usage.output_tokens,
            estimated=self.usage.estimated or completion.usage.estimated,
        )
        return completion

    def _request(self, *, tool_choice: str) -> CompletionRequest:
        specs = (self.ctx.tools[name] for name in self.tools)
        return CompletionRequest(
            messages=tuple(self.messages),
            tools=tuple(ToolSpec(name=s.name, description=s.description, parameters=s.schema()) for s in specs),
            tool_choice=tool_choice,
            max_tokens=self.budget.output_tokens,
            grounding=Grounding(query=self.query, passages=tuple(self.passages)),
        )

    async def _show(self, text: str) -> None:
        if text:
            await self.ctx.emit_token(text)

    async def _refused(self, citation: UndecidedCitation) -> list[int]:
        """The numbers of a citation whose passages have nothing to do with what it was put to."""
        refused = [
            number
            for number in citation.numbers
            if await self.overlap.is_unrelated(citation.statement, self.passages[number - 1])
        ]
        self.dropped += [
            DroppedCitation(statement=citation.statement, source=self.passages[number - 1].source) for number in refused
        ]
        return refused

    def _record_dropped(self) -> None:
        if self.dropped:
            dropped = [{"statement": one.statement, **_named(one.source)} for one in self.dropped]
            self.ctx.record("state_change", StateChange(change="citations_dropped", details={"dropped": dropped}))

    async def _carry_out(self, completion: Completion) -> None:
        self.messages.append(ChatMessage(role="assistant", content=completion.text, tool_calls=completion.tool_calls))
        for call in completion.tool_calls:
            content = await self._output_of(call)
            self.messages.append(ChatMessage(role="tool", content=content, tool_call_id=call.call_id))

    async def _output_of(self, call: ToolRequest) -> str:
        """What the model reads. A refused call is reported to the model, which may do better, and recorded."""
        try:
            result = await self.ctx.tool(self._offered(call.name), **_arguments(call))
        except (Forbidden, Invalid) as error:
            self.ctx.record(
                "error", ErrorRaised(type=type(error).__name__, message=str(error), where=f"tool {call.name}")
            )
            return f"error: {error}"
        return self._added(result) if _are_passages(result) else to_json(result).decode()

    def _offered(self, name: str) -> str:
        """`name`, if it was offered to the model: the agent may have tools that are not for the model."""
        if name not in self.tools:
            raise Forbidden(f"tool {name!r} was not offered; offered: {', '.join(self.tools) or 'none'}")
        return name

    def _added(self, found: Sequence[Passage]) -> str:
        """Take new passages in and show them with the numbers that they may be cited by."""
        known = {passage.source.passage_id for passage in self.passages}
        new = [passage for passage in found if passage.source.passage_id not in known]
        first_number = len(self.passages) + 1
        self.passages.extend(new)
        return quote_passages(new, first_number) if new else "Nothing that is not among the passages already."


def _named(source: Source) -> JsonObject:
    return {"document_id": source.document_id, "passage_id": source.passage_id, "uri": source.uri}


def _arguments(call: ToolRequest) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Invalid(f"tool {call.name}: its arguments are not a JSON object: {error}") from error


def _are_passages(result: object) -> bool:
    return isinstance(result, list) and all(isinstance(item, Passage) for item in result)
