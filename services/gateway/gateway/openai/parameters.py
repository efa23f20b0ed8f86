"""OpenAI's parameters that a fleet ignores or refuses. None is ignored in silence: docs/openai.md has the lists."""

from collections.abc import Mapping
from typing import Any

from gateway.problems import wrong_parameter

_SHOWN = 100
IGNORED = frozenset(
    {
        "frequency_penalty", "include", "logit_bias", "max_completion_tokens", "max_output_tokens", "max_tokens",
        "max_tool_calls", "presence_penalty", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "reasoning", "reasoning_effort", "safety_identifier", "seed", "service_tier",
        "store", "temperature", "top_p", "truncation", "verbosity",
    }
)  # fmt: skip
"""They tune a model. The operator sets up the models, so they change nothing."""
DEFAULTS: Mapping[str, tuple[object, ...]] = {
    "access_programs": (),
    "audio": (),
    "background_options": (),
    "context_management": (),
    "conversation": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "image": (),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "prompt": (),
    "stop": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""They would change what an answer is. Only null and these values are accepted, which ask for what a fleet does."""


def check_parameters(given: Mapping[str, Any]) -> None:
    """Refuse parameters that would change the answer in a way that a fleet can't.

    Raises:
        RequestValidationError: with the parameter's name.
    """
    for name, value in given.items():
        if name in IGNORED or value is None:
            continue
        if name not in DEFAULTS:
            raise wrong_parameter(name[:_SHOWN], f"unknown parameter {name[:_SHOWN]!r}")
        if not any(type(value) is type(one) and value == one for one in DEFAULTS[name]):
            raise wrong_parameter(name, f"parameter {name!r} is not supported: leave it out")
