"""Which models answer, by the settings."""

import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, SecretStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flotilla.config import LlmDialectWord, LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.tasks import Passage
from flotilla.llm.chain import Link, ModelChain
from flotilla.llm.extractive import EXTRACTIVE_MODEL, ExtractiveModel, Terms
from flotilla.llm.model import LanguageModel
from flotilla.llm.pace import Pace


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelOverrides:
    """What is different for one model, from the file of `FLOTILLA_LLM_MODELS`."""

    name: str
    base_url: str | None = None
    api_key_file: Path | None = None
    dialect: tuple[LlmDialectWord, ...] | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    requests_per_minute: float | None = Field(default=None, gt=0)

    def over(self, settings: LlmSettings) -> LlmSettings:
        """The settings for this model. A key goes to the endpoint that it was given for, and to no other.

        Raises:
            ConfigurationError: the file of the key can't be read.
        """
        changed: dict[str, Any] = {"llm_model": self.name}
        if self.base_url is not None:
            changed |= {"openai_base_url": self.base_url, "openai_api_key": None}
            changed |= {"llm_azure_deployment": None, "llm_azure_api_version": None}
        if self.api_key_file is not None:
            changed["openai_api_key"] = _key_in(self.api_key_file)
        if self.dialect is not None:
            changed["llm_dialect"] = self.dialect
        if self.timeout_s is not None:
            changed["llm_timeout_s"] = self.timeout_s
        return settings.model_copy(update=changed)


_MODELS = TypeAdapter(dict[str, list[ModelOverrides]])


def create_model(settings: LlmSettings, terms_for: Callable[[Sequence[Passage]], Terms] | None = None) -> LanguageModel:
    """The OpenAI-compatible endpoint where one is configured, else the built-in extractive model, which
    compares the terms of `terms_for`. With fallbacks or with what is different for a model, a chain.

    Raises:
        ConfigurationError: an endpoint without the name of a model, or a file that can't be used.
    """
    if settings.openai_base_url is None and settings.openai_api_key is None:
        return ExtractiveModel(terms_for)
    if not settings.llm_model:
        raise ConfigurationError(
            "FLOTILLA_LLM_MODEL is not set: name the model to ask for at OPENAI_BASE_URL, or unset OPENAI_BASE_URL and "
            "OPENAI_API_KEY to answer with the built-in extractive model"
        )
    names = dict.fromkeys((settings.llm_model, *settings.llm_fallbacks))
    known = {} if settings.llm_models is None else _read_models(settings.llm_models)
    links = [_link(settings, known.get(name) or ModelOverrides(name=name)) for name in names]
    return links[0].model if len(links) == 1 and not known else ModelChain(links)


@asynccontextmanager
async def open_models(
    settings: LlmSettings, terms_for: Callable[[Sequence[Passage]], Terms] | None = None
) -> AsyncIterator[tuple[LanguageModel, dict[str, LanguageModel]]]:
    """The model of `create_model`, and by name those that replays may ask for in its place; closed after the block.

    Raises:
        ConfigurationError: as `create_model`.
    """
    async with AsyncExitStack() as stack:
        model = create_model(settings, terms_for)
        stack.push_async_callback(model.close)
        offered = {name: _offered(settings, name, terms_for) for name in settings.llm_replay_models}
        for other in offered.values():
            stack.push_async_callback(other.close)
        yield model, offered


def _offered(settings: LlmSettings, name: str, terms_for: Callable[[Sequence[Passage]], Terms] | None) -> LanguageModel:
    if name == EXTRACTIVE_MODEL:
        return ExtractiveModel(terms_for)
    known = {} if settings.llm_models is None else _read_models(settings.llm_models)
    one = known.get(name) or ModelOverrides(name=name)
    if one.base_url is None and settings.openai_base_url is None and settings.openai_api_key is None:
        raise ConfigurationError(
            f"FLOTILLA_LLM_REPLAY_MODELS names {name}, and there is no endpoint to ask for it: set OPENAI_BASE_URL, or "
            f"its base_url in the file of FLOTILLA_LLM_MODELS; the built-in model is {EXTRACTIVE_MODEL}"
        )
    return ModelChain([_link(settings, one)])


def _link(settings: LlmSettings, one: ModelOverrides) -> Link:
    from flotilla.llm.openai_model import OpenAiModel

    return Link(OpenAiModel(one.over(settings), one.name), Pace(one.name, one.requests_per_minute))


def _read_models(file: Path) -> dict[str, ModelOverrides]:
    try:
        found = _MODELS.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeError) as error:
        raise ConfigurationError(f"FLOTILLA_LLM_MODELS: {file} can't be read: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise ConfigurationError(f"FLOTILLA_LLM_MODELS: {file}: {'; '.join(problems)}") from None
    if found.keys() != {"models"}:
        raise ConfigurationError(f"FLOTILLA_LLM_MODELS: {file}: it holds [[models]] and nothing else")
    return {one.name: one for one in found["models"]}


def _key_in(file: Path) -> SecretStr:
    try:
        return SecretStr(file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"FLOTILLA_LLM_MODELS: the key in {file} can't be read: {error}") from error
