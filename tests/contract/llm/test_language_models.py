"""What every language model keeps, the fake that agent authors test with included."""

from collections.abc import AsyncIterator

import pytest

from flotilla.config import LlmSettings
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage
from flotilla.llm import (
    ChatMessage,
    CompletionRequest,
    ExtractiveModel,
    Grounding,
    LanguageModel,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
)
from flotilla.llm.openai_model import OpenAiModel
from flotilla.testing import FakeModel
from tests.support.stub_llm import ANSWER, running_stub

SOURCE = Source(document_id="d", title="T", uri="u", passage_id="1", start=0, end=1, score=1.0)
PASSAGE = Passage(text="The documents say so, and they say it often.", source=SOURCE)
REQUEST = CompletionRequest(
    messages=(ChatMessage(role="system", content="Answer."), ChatMessage(role="user", content="Question: why?")),
    grounding=Grounding(query="What do the documents say?", passages=(PASSAGE,)),
)


def settings(url: str, timeout_s: float = 5.0) -> LlmSettings:
    return LlmSettings.model_validate(
        {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "key", "llm_model": "m", "llm_timeout_s": timeout_s}
    )


@pytest.fixture(params=["openai", "openai without logprobs", "extractive", "fake"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[LanguageModel]:
    if request.param == "extractive":
        yield ExtractiveModel()
    elif request.param == "fake":
        yield FakeModel(ANSWER, ANSWER)
    else:
        mode = "ok" if request.param == "openai" else "no_logprobs"
        async with running_stub(mode) as stub:
            opened = OpenAiModel(settings(stub.url), "m")
            yield opened
            await opened.close()


async def test_the_tokens_are_the_text(model: LanguageModel) -> None:
    pieces: list[str] = []

    async def on_token(piece: str) -> None:
        pieces.append(piece)

    completion = await model.complete(REQUEST, on_token)
    assert "".join(pieces) == completion.text
    assert len(pieces) > 1
    assert "[1]" in completion.text


async def test_nobody_has_to_listen(model: LanguageModel) -> None:
    first, second = await model.complete(REQUEST), await model.complete(REQUEST)
    assert first == second
    assert first.finish_reason == "stop"
    assert first.usage.output_tokens > 0
    assert first.model


@pytest.mark.parametrize(
    ("mode", "error", "reason"),
    [
        ("400", ModelRefused, "FLOTILLA_LLM_LOGPROBS=false"),
        ("401", ModelRefused, "401: Incorrect API key provided; check OPENAI_API_KEY"),
        ("403", ModelRefused, "403: The project may not use this model"),
        ("404", ModelRefused, "check FLOTILLA_LLM_MODEL"),
        ("no_credit", ModelRefused, "no credit left"),
        ("429", ModelUnavailable, "429: Rate limit reached"),
        ("500", ModelUnavailable, "500: The server had an error"),
        ("503", ModelUnavailable, "503: Overloaded"),
        ("cut_off", ModelUnavailable, "broke off its answer"),
        ("garbage", ModelUnavailable, "broke off its answer"),
        ("never", ModelTimedOut, "no answer within 0.2 s"),
        ("slow", ModelTimedOut, "no answer within 0.2 s"),
    ],
)
async def test_an_endpoints_failure_says_whether_to_try_again(mode: str, error: type[Exception], reason: str) -> None:
    async with running_stub(mode, delay_s=0.2) as stub:
        model = OpenAiModel(settings(stub.url, timeout_s=0.2 if error is ModelTimedOut else 5), "m")
        with pytest.raises(error, match=reason):
            await model.complete(REQUEST)
        assert stub.total == 1
        await model.close()


async def test_an_endpoint_that_is_away_may_come_back() -> None:
    model = OpenAiModel(settings("http://127.0.0.1:9/v1"), "m")
    with pytest.raises(ModelUnavailable, match=r"no connection to http://127\.0\.0\.1:9/v1"):
        await model.complete(REQUEST)
    await model.close()


async def test_an_endpoint_that_knows_no_log_probabilities_is_not_asked_for_them() -> None:
    async with running_stub() as stub:
        model = OpenAiModel(settings(stub.url).model_copy(update={"llm_logprobs": False}), "m")
        completion = await model.complete(REQUEST)
        await model.close()
        assert "logprobs" not in stub.requests[0]
        assert completion.logprobs == ()
