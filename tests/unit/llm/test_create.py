from pathlib import Path

import pytest

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.llm import (
    EXTRACTIVE_MODEL,
    ChatMessage,
    CompletionRequest,
    ToolSpec,
    create_model,
    hash_completion_request,
)
from flotilla.llm.chain import ModelChain
from flotilla.llm.create import ModelOverrides
from tests.support.scripted_endpoint import ScriptedEndpoint, events, finished, running_endpoint


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


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "the first one's key")
    monkeypatch.setenv("FLOTILLA_LLM_MODEL", "first")


@pytest.mark.usefixtures("endpoint")
async def test_fallbacks_make_a_chain_by_the_name_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_LLM_FALLBACKS", "second, third,first")
    model = create_model(LlmSettings())
    assert isinstance(model, ModelChain)
    assert (model.name, model.model_names) == ("first", ("first", "second", "third"))
    await model.close()


@pytest.mark.usefixtures("endpoint")
def test_a_key_goes_to_no_endpoint_that_it_was_not_given_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another key\n")
    elsewhere = ModelOverrides(name="second", base_url="https://elsewhere.example.com/v1")
    assert elsewhere.over(LlmSettings()).openai_api_key is None
    keyed = ModelOverrides(name="second", base_url="https://elsewhere.example.com/v1", api_key_file=tmp_path / "key")
    changed = keyed.over(LlmSettings())
    assert changed.openai_api_key is not None
    assert changed.openai_api_key.get_secret_value() == "another key"
    same = ModelOverrides(name="second", timeout_s=3, dialect=("no_seed",)).over(LlmSettings())
    assert same.openai_api_key == LlmSettings().openai_api_key
    assert (same.llm_timeout_s, same.llm_dialect, same.llm_model) == (3, ("no_seed",), "second")


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[models]]\nname = 'a'\nrequests_per_minute = 0", "requests_per_minute"),
        ("[[models]]\nname = 'a'\nrequest_per_minute = 1", "request_per_minute"),
        ("[[models]]\nbase_url = 'https://a'", "name"),
        ("[[models]]\nname = 'first'\napi_key_file = '/none'", "/none can't be read"),
        ("[[prices]]\nname = 'a'", "nothing else"),
        ("[", "can't be read"),
    ],
)
def test_a_file_of_models_that_can_not_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    monkeypatch.setenv("FLOTILLA_LLM_MODELS", str(file))
    with pytest.raises(ConfigurationError, match=said) as refused:
        create_model(LlmSettings())
    assert "FLOTILLA_LLM_MODELS" in str(refused.value)


async def test_another_endpoint_answers_with_its_own_key_where_the_first_is_busy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    busy = ScriptedEndpoint([b"{}"], 429, "application/json", {"Retry-After": "20"})
    other = ScriptedEndpoint(events("hello", *finished()))
    async with running_endpoint(busy), running_endpoint(other):
        (tmp_path / "key").write_text("another key")
        file = tmp_path / "models.toml"
        file.write_text(f'[[models]]\nname = "second"\nbase_url = "{other.url}"\napi_key_file = "{tmp_path / "key"}"')
        monkeypatch.setenv("OPENAI_BASE_URL", busy.url)
        monkeypatch.setenv("OPENAI_API_KEY", "the first one's key")
        for name, value in (("MODEL", "first"), ("FALLBACKS", "second"), ("MODELS", str(file))):
            monkeypatch.setenv(f"FLOTILLA_LLM_{name}", value)
        model = create_model(LlmSettings())
        request = CompletionRequest(messages=(ChatMessage(role="user", content="q"),))
        made = [await model.complete(request) for _ in range(2)]
        await model.close()
    assert [(one.text, one.answered_by, one.fallbacks[0].reason) for one in made] == [
        ("hello", "second", "unavailable"),
        ("hello", "second", "circuit_open"),
    ]
    assert len(busy.requests) == 1
    assert {headers["authorization"] for headers in other.request_headers} == {"Bearer another key"}


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
    hashes = {hash_completion_request("m", request) for request in [base, *others]} | {
        hash_completion_request("other", base)
    }
    assert len(hashes) == len(others) + 2
    assert hash_completion_request("m", CompletionRequest(messages=(ChatMessage(role="user", content="q"),))) in hashes
