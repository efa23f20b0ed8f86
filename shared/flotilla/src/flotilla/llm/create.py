"""Which model answers, by the settings."""

from collections.abc import Callable, Sequence

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.tasks import Passage
from flotilla.llm.extractive import ExtractiveModel, Terms
from flotilla.llm.model import LanguageModel


def create_model(settings: LlmSettings, terms_for: Callable[[Sequence[Passage]], Terms] | None = None) -> LanguageModel:
    """The OpenAI-compatible endpoint where one is configured, else the built-in extractive model, which
    compares the terms of `terms_for`.

    Raises:
        ConfigurationError: an endpoint without the name of a model.
    """
    if settings.openai_base_url is None and settings.openai_api_key is None:
        return ExtractiveModel(terms_for)
    if not settings.llm_model:
        raise ConfigurationError(
            "FLOTILLA_LLM_MODEL is not set: name the model to ask for at OPENAI_BASE_URL, or unset OPENAI_BASE_URL and "
            "OPENAI_API_KEY to answer with the built-in extractive model"
        )
    from flotilla.llm.openai_model import OpenAiModel

    return OpenAiModel(settings, settings.llm_model)
