import pytest

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.llm import EXTRACTIVE_MODEL, ChatMessage, CompletionRequest, ToolSpec, create_model, request_hash


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "FLOTILLA_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_key_the_built_in_model_answers() -> None:
    assert create_model(LlmSettings()).name == EXTRACTIVE_MODEL


@pytest.mark.parametrize(("name", "value"), [("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"), ("OPENAI_API_KEY", "k")])
async def test_with_an_endpoint_the_named_model_answers(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="FLOTILLA_LLM_MODEL"):
        create_model(LlmSettings())
    monkeypatch.setenv("FLOTILLA_LLM_MODEL", "some-model")
    model = create_model(LlmSettings())
    assert (model.name, model.provider) == ("some-model", "openai")
    await model.close()


def test_everything_that_decides_the_answer_is_in_the_hash() -> None:
    message = ChatMessage(role="user", content="q")
    base = CompletionRequest(messages=(message,))
    others = [
        CompletionRequest(messages=(message, message)),
        CompletionRequest(messages=(ChatMessage(role="system", content="q"),)),
        CompletionRequest(messages=(message,), max_tokens=1),
        CompletionRequest(messages=(message,), temperature=0.5),
        CompletionRequest(messages=(message,), tools=(ToolSpec(name="t", description="", parameters={}),)),
        CompletionRequest(messages=(message,), tool_choice="none"),
    ]
    hashes = {request_hash("m", request) for request in [base, *others]} | {request_hash("other", base)}
    assert len(hashes) == len(others) + 2
    assert request_hash("m", CompletionRequest(messages=(ChatMessage(role="user", content="q"),))) in hashes
