"""The writer in the test kit: the real task function, a model that says what the test wants."""

from dataclasses import replace

import pytest

from flotilla.agent import ToolFunction
from flotilla.answers.calibration import Calibration, Calibrations
from flotilla.answers.fitting import BY_WORDS, Case, fit
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage, TokenUsage, Turn, WriteResult, WriteTask
from flotilla.llm import (
    NOTHING_FOUND,
    Completion,
    ExtractiveModel,
    LanguageModel,
    ModelRefused,
    ModelUnavailable,
    ToolRequest,
)
from flotilla.testing import FakeModel, TaskRun, run_task
from writer_agent.agent import NO_PASSAGES, AnswerWriting, create_writer_agent
from writer_agent.tool_loop import AnswerBudget


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
    budget: AnswerBudget | None = None,
    history: list[Turn] | None = None,
    known: tuple[ToolFunction, ...] = (search_knowledge_base,),
    has_judge: bool = False,
    calibration: Calibration | None = None,
    query: str = "What do cats eat?",
    searched_for: str = "",
    language: str = "en",
) -> TaskRun[WriteResult]:
    allowed = budget or AnswerBudget(tool_steps=2, tokens=10_000)
    calibrations = Calibrations(calibration) if calibration else None
    writing = AnswerWriting(
        tools, allowed, history_turns=2, has_judge=has_judge, calibrations=calibrations, language=language
    )
    agent = create_writer_agent(writing)
    task = WriteTask(query=query, passages=list(passages), history=history or [], searched_for=searched_for)
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The documents do not say who owns the moon. [0]", "The documents do not say who owns the moon."),
        ("Wem der Mond geh\u00f6rt, steht dort nicht [0].", "Wem der Mond geh\u00f6rt, steht dort nicht."),
        ("[0] Nothing there.", "Nothing there."),
        ("書かれていない。[0]", "書かれていない。"),
    ],
)
async def test_a_model_declines_a_question_by_citing_no_passage(text: str, shown: str) -> None:
    run = await write(FakeModel(text), CATS)
    assert (run.result.answer, run.result.abstained, run.result.statements) == (shown, True, [])
    assert run.result.confidence <= 0.2
    [details] = [event.data["details"] for event in run.events if event.data.get("change") == "question_declined"]
    assert isinstance(details, dict)
    assert details["by"] == "model"


@pytest.mark.parametrize(
    "text", ["Fish [1]. Not where [0].", "Take args[0] of it.", "Read `a [0]` first.", "Fish [9]."]
)
async def test_an_answer_that_says_something_declines_nothing(text: str) -> None:
    run = await write(FakeModel(text), CATS)
    assert not run.result.abstained
    assert run.result.statements


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
    run = await write(model, CATS, budget=AnswerBudget(tool_steps=5, tokens=15))
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


async def test_a_citation_that_supports_nothing_is_dropped_and_recorded() -> None:
    run = await write(FakeModel("Cats eat fish [1]. Nobody parks a lorry there overnight [2]."), CATS, DOGS)
    assert run.result.answer == "Cats eat fish [1]. Nobody parks a lorry there overnight."
    assert run.tokens == run.result.answer
    assert [source.document_id for source in run.result.sources] == ["d1"]
    [dropped] = run.result.dropped_citations
    assert (dropped.statement, dropped.source.document_id) == ("Nobody parks a lorry there overnight", "d2")
    [event] = run.events
    assert (event.kind, event.data["change"]) == ("state_change", "citations_dropped")
    named = {"document_id": "d2", "passage_id": "2", "uri": "u2"}
    assert event.data["details"] == {"dropped": [{"statement": "Nobody parks a lorry there overnight", **named}]}


async def test_each_sentence_is_held_against_what_it_cites_and_doubt_lowers_the_confidence() -> None:
    run = await write(FakeModel("Cats eat fish in the evening [1]. They own a yacht and sleep in Monaco [1]."), CATS)
    first, second = run.result.statements
    assert (first.supported, second.supported) == (True, False)
    assert (first.sources, second.sources) == ([1], [1])
    assert run.result.answer[first.start : first.end] == "Cats eat fish in the evening [1]."
    sure = await write(FakeModel("Cats eat fish in the evening [1]."), CATS)
    assert run.result.confidence == pytest.approx(sure.result.confidence / 2, abs=1e-3)


async def test_an_answer_that_cites_nothing_is_not_supported() -> None:
    run = await write(FakeModel("Cats eat fish in the evening."), CATS)
    assert [one.supported for one in run.result.statements] == [False]
    assert run.result.confidence == 0.0


async def test_a_model_as_judge_decides_what_is_supported() -> None:
    model = FakeModel("Cats eat fish [1]. Cats never eat mice in the evening [1].", 'Well: {"unsupported": [2]}')
    run = await write(model, CATS, has_judge=True)
    assert [one.supported for one in run.result.statements] == [True, False]
    asked = model.requests[1].messages[-1].content
    assert '{"number": 2, "passages": [1], "statement": "Cats never eat mice in the evening [1]."}' in asked
    assert run.tokens == run.result.answer


@pytest.mark.parametrize(
    "judgement",
    [
        "I can't say.",
        "{}",
        '{"unsupported": 3}',
        '{"unsupported": ["x"]}',
        '{"unsupported": [1e999]}',
        '{"unsupported": [NaN]}',
        "{" * 5000 + "}",
    ],
)
async def test_a_judgement_that_is_none_leaves_it_to_the_words(judgement: str) -> None:
    run = await write(FakeModel("Cats eat fish [1]. Cats own a yacht [1].", judgement), CATS, has_judge=True)
    assert [one.supported for one in run.result.statements] == [True, False]


def judged_cases() -> list[Case]:
    """Questions that are answered where passages hold more than half of their words."""
    return [
        Case(
            {**dict.fromkeys(BY_WORDS, n / 40), "count": 0.25, "margin": 0.0, "support": 1.0},
            answerable=n > 20,
            right=n > 25,
        )
        for n in range(40)
    ]


async def test_what_the_documents_are_not_likely_to_answer_is_declined_without_asking_the_model() -> None:
    calibration = fit(judged_cases(), model="fake")
    model = FakeModel("Fish [1].")
    run = await write(model, replace(DOGS, by_words=0.05), calibration=calibration)
    assert (run.result.answer, run.result.abstained, run.result.sources) == (NOTHING_FOUND, True, [])
    assert run.result.confidence < 0.3
    assert run.tokens == NOTHING_FOUND
    assert model.requests == []
    assert [event.data["change"] for event in run.events] == ["question_declined"]


async def test_a_calibration_says_how_sure_an_answer_is() -> None:
    calibration = fit(judged_cases(), model="fake")
    run = await write(FakeModel("They eat fish [1]."), replace(CATS, by_words=0.95), calibration=calibration)
    assert (run.result.abstained, run.result.confidence_basis) == (False, "calibrated")
    assert run.result.confidence > 0.7
    assert run.result.features["words"] == 0.95
    doubted = await write(
        FakeModel("They eat fish [1]. They own a yacht [1]."), replace(CATS, by_words=0.95), calibration=calibration
    )
    assert doubted.result.confidence <= run.result.confidence / 2


async def test_a_follow_up_is_answered_with_what_was_searched_for() -> None:
    run = await write(
        ExtractiveModel(), CATS, query="And in the evening?", searched_for="What do cats eat? And in the evening?"
    )
    assert "They eat fish and mice in the evening." in run.result.answer
    assert run.result.searched_for == "What do cats eat? And in the evening?"


async def test_passages_too_short_to_show_their_language_are_read_in_the_operators() -> None:
    short = replace(passage("Häuser mit Gärten.", 1), by_words=1.0)
    shares = {
        language: (
            await write(FakeModel("Ja [1]."), short, query="Haus mit Garten?", language=language)
        ).result.features["held"]
        for language in ("en", "de")
    }
    assert shares["de"] == 1.0
    assert shares["en"] < 1.0
