"""The writer in the test kit: the real task function, a model that says what the test wants."""

import pytest

from flotilla.agent import ToolFunction
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage, TokenUsage, Turn, WriteResult, WriteTask
from flotilla.llm import Completion, ExtractiveModel, LanguageModel, ModelRefused, ModelUnavailable, ToolRequest
from flotilla.testing import FakeModel, TaskRun, run_task
from writer_agent.agent import NO_PASSAGES, Writing, writer
from writer_agent.tool_loop import Budget


def passage(text: str, number: int = 1, score: float = 1.0) -> Passage:
    source = Source(
        document_id=f"d{number}",
        title=f"T{number}",
        uri=f"u{number}",
        passage_id=str(number),
        start=0,
        end=9,
        score=score,
    )
    return Passage(text=text, source=source)


CATS = passage("Cats sleep all day. They eat fish and mice in the evening.", 1)
DOGS = passage("Dogs sleep in the kennel. They eat bones from the butcher.", 2, score=2.0)
SEARCH = "search_knowledge_base"


async def search_knowledge_base(query: str, top_k: int = 5) -> list[Passage]:
    """Finds passages."""
    return [CATS, passage(f"Found for {query}.", 3)][:top_k]


def calling(name: str = SEARCH, arguments: str = '{"query": "mice"}', text: str = "") -> Completion:
    call = ToolRequest(call_id="c1", name=name, arguments=arguments)
    usage = TokenUsage(input_tokens=10, output_tokens=5)
    return Completion(text=text, model="fake", finish_reason="tool_calls", tool_calls=(call,), usage=usage)


async def write(
    model: LanguageModel,
    *passages: Passage,
    tools: tuple[str, ...] = (SEARCH,),
    budget: Budget | None = None,
    history: list[Turn] | None = None,
    known: tuple[ToolFunction, ...] = (search_knowledge_base,),
) -> TaskRun[WriteResult]:
    agent = writer(Writing(tools=tools, budget=budget or Budget(tool_steps=2, tokens=10_000), history_turns=2))
    task = WriteTask(query="What do cats eat?", passages=list(passages), history=history or [])
    return await run_task(agent, task, tools={tool.__name__: tool for tool in known}, model=model)


async def test_the_answer_cites_sources_that_were_given_in_the_order_of_its_citations() -> None:
    run = await write(FakeModel("Dogs eat bones [2], cats eat fish [1]."), CATS, DOGS)
    assert run.result.answer == "Dogs eat bones [1], cats eat fish [2]."
    assert [source.document_id for source in run.result.sources] == ["d2", "d1"]
    assert run.result.sources[1].quote == "They eat fish and mice in the evening."
    assert run.tokens == run.result.answer


async def test_a_citation_of_nothing_is_dropped_and_the_answer_not_trusted() -> None:
    run = await write(FakeModel("Cats eat pizza [7]."), CATS)
    assert run.result.answer == "Cats eat pizza."
    assert run.result.sources == []
    assert run.result.confidence <= 0.2


async def test_confidence_says_what_it_rests_on() -> None:
    scored = await write(FakeModel("Bones [2]."), CATS, DOGS)
    assert (scored.result.confidence, scored.result.confidence_basis) == (0.8, "retrieval_scores")
    sure = Completion(text="Fish [1].", model="m", logprobs=(0.0, 0.0))
    told = await write(FakeModel(sure), CATS)
    assert (told.result.confidence, told.result.confidence_basis) == (1.0, "token_logprobs")


async def test_the_built_in_model_answers_and_says_its_name() -> None:
    run = await write(ExtractiveModel(), DOGS, CATS)
    assert "They eat fish and mice in the evening. [" in run.result.answer
    assert run.result.model == "flotilla-extractive-1"
    assert run.result.confidence_basis == "retrieval_scores"
    assert "d1" in [source.document_id for source in run.result.sources]


async def test_without_passages_no_model_is_asked_and_the_answer_reports_it() -> None:
    model = FakeModel()
    run = await write(model)
    assert (run.result.answer, run.result.sources, run.result.confidence) == (NO_PASSAGES, [], 0.0)
    assert run.result.model == "none"
    assert run.tokens == NO_PASSAGES
    assert model.requests == []


async def test_earlier_turns_are_part_of_the_prompt() -> None:
    model = FakeModel("Fish [1].")
    await write(model, CATS, history=[Turn(query=f"q{n}", answer=f"a{n}") for n in range(4)])
    assert [m.content for m in model.requests[0].messages[1:-1]] == ["Question: q2", "a2", "Question: q3", "a3"]


async def test_a_tool_call_is_carried_out_recorded_and_its_passages_can_be_cited() -> None:
    model = FakeModel(calling(text="Let me look. "), "Found it [2].")
    run = await write(model, CATS)
    assert run.kinds == ["tool_call", "tool_result"]
    assert run.events[0].data["args"] == {"query": "mice", "top_k": 5}
    assert run.events[1].data["ok"] is True
    assert [source.document_id for source in run.result.sources] == ["d3"]
    assert run.tokens == "Found it [1]."
    told = model.requests[1].messages[-1]
    assert (told.role, told.tool_call_id) == ("tool", "c1")
    assert "passage 2 begins" in told.content
    assert "Cats sleep" not in told.content
    assert run.result.usage == TokenUsage(input_tokens=10, output_tokens=8)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (calling(name="delete_everything", arguments="{}"), "Forbidden", "delete_everything"),
        (calling(arguments='{"query": 7}'), "Invalid", "Expected `str`"),
        (calling(arguments='{"query": "x", "tenant_id": "globex"}'), "Invalid", "tenant_id"),
        (calling(arguments="{}"), "Invalid", "query"),
        (calling(arguments="[1]"), "Invalid", "not a JSON object"),
        (calling(arguments="not json"), "Invalid", "not a JSON object"),
    ],
)
async def test_a_wrong_call_is_refused_recorded_and_told_to_the_model(call: Completion, kind: str, reason: str) -> None:
    model = FakeModel(call, "Fish [1].")
    run = await write(model, CATS)
    assert run.kinds == ["error"]
    assert run.events[0].data["type"] == kind
    assert reason in model.requests[1].messages[-1].content
    assert run.result.answer == "Fish [1]."


async def test_a_tool_that_only_the_agent_may_use_is_neither_offered_to_the_model_nor_carried_out_for_it() -> None:
    done: list[str] = []

    async def delete_everything() -> str:
        done.append("deleted")
        return "done"

    model = FakeModel(calling(name="delete_everything", arguments="{}"), "Fish [1].")
    run = await write(model, CATS, known=(search_knowledge_base, delete_everything))
    assert [tool.name for tool in model.requests[0].tools] == [SEARCH]
    assert run.kinds == ["error"]
    assert run.events[0].data["type"] == "Forbidden"
    assert done == []


async def test_with_an_empty_list_the_model_is_offered_nothing_and_gets_nothing() -> None:
    model = FakeModel(calling(), "Fish [1].")
    run = await write(model, CATS, tools=())
    assert model.requests[0].tools == ()
    assert run.kinds == ["error"]


async def test_after_its_last_step_the_model_must_answer() -> None:
    model = FakeModel(calling(), calling(), "Fish [1].")
    run = await write(model, CATS)
    assert [request.tool_choice for request in model.requests] == ["auto", "auto", "none"]
    assert run.result.answer == "Fish [1]."


async def test_a_model_that_never_stops_asking_for_tools_is_stopped() -> None:
    run = await write(FakeModel(calling(), calling(), calling()), CATS)
    assert run.failure is not None
    assert (run.failure.type, run.failure.retryable) == ("ToolStepsSpent", False)
    assert "FLOTILLA_WRITER_MAX_TOOL_STEPS" in run.failure.message
    assert run.tokens == ""


async def test_an_answer_that_costs_more_than_its_budget_is_stopped_before_the_next_call() -> None:
    model = FakeModel(calling(), "never asked")
    run = await write(model, CATS, budget=Budget(tool_steps=5, tokens=15))
    assert run.failure is not None
    assert (run.failure.type, run.failure.retryable) == ("TokensSpent", False)
    assert "15 tokens used, 15 allowed" in run.failure.message
    assert len(model.requests) == 1


async def test_the_offered_tools_have_typed_arguments() -> None:
    model = FakeModel("Fish [1].")
    await write(model, CATS)
    [tool] = model.requests[0].tools
    assert tool.name == SEARCH
    assert "query" in str(tool.parameters)


@pytest.mark.parametrize(("error", "retryable"), [(ModelRefused("401"), False), (ModelUnavailable("500"), True)])
async def test_what_the_model_reports_decides_whether_to_try_again(error: Exception, retryable: bool) -> None:
    run = await write(FakeModel(error), CATS)
    assert run.failure is not None
    assert (run.failure.type, run.failure.retryable) == (type(error).__name__, retryable)
