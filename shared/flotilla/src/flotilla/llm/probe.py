"""Finds out which dialect an endpoint speaks: one small request per feature, and the settings that fit."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import get_args

from flotilla.config import LlmDialectWord, LlmSettings
from flotilla.llm.create import create_model
from flotilla.llm.model import ChatMessage, Completion, CompletionRequest, ModelRefused, ModelUnavailable, ToolSpec

_QUESTION = ChatMessage(role="user", content="Answer with the one word: ready")
_TOOL = ToolSpec(
    name="current_time",
    description="Return the current time.",
    parameters={"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
)
_CLOCK = ChatMessage(role="user", content="What time is it in UTC? Call the tool current_time.")
_RULES = ChatMessage(role="system", content="Answer in one word.")
_MAX_TOKENS = 400
_PLAIN = CompletionRequest(messages=(_QUESTION,))
_WORDS: tuple[LlmDialectWord, ...] = get_args(LlmDialectWord)
_PLAINEST: tuple[LlmDialectWord, ...] = tuple(
    word for word in _WORDS if word not in ("no_stream", "begins_with_reasoning")
)


@dataclass(frozen=True, slots=True)
class ProbedFeature:
    """One thing that an endpoint may not understand: the request that uses it, and the word that leaves it out."""

    name: str
    word: LlmDialectWord | None
    request: CompletionRequest
    logprobs: bool = False
    needs: LlmDialectWord | None = None
    """The word of a feature without which this one can't be tried."""
    shows: Callable[[Completion], bool] = field(default=lambda _: True)
    """Whether the answer shows that the feature was understood, and not only accepted."""


FEATURES = (
    ProbedFeature(
        "token usage in streams", "no_stream_options", _PLAIN, shows=lambda answer: not answer.usage.estimated
    ),
    ProbedFeature("log-probabilities", None, _PLAIN, logprobs=True, shows=lambda answer: bool(answer.logprobs)),
    ProbedFeature("system messages", "no_system_role", replace(_PLAIN, messages=(_RULES, _QUESTION))),
    ProbedFeature(
        "tools", "no_tools", CompletionRequest(messages=(_CLOCK,), tools=(_TOOL,)), shows=lambda a: bool(a.tool_calls)
    ),
    ProbedFeature(
        "tool_choice", "no_tool_choice", replace(_PLAIN, tools=(_TOOL,), tool_choice="none"), needs="no_tools"
    ),
    ProbedFeature("temperature", "no_temperature", replace(_PLAIN, temperature=0.0)),
    ProbedFeature("seed", "no_seed", replace(_PLAIN, seed=1)),
    ProbedFeature("stop", "no_stop", replace(_PLAIN, stop=("END",))),
    ProbedFeature("reasoning effort", "no_reasoning", replace(_PLAIN, reasoning="low")),
    ProbedFeature(
        "response_format",
        "no_response_format",
        replace(
            _PLAIN,
            messages=(ChatMessage(role="user", content='Answer with the JSON object {"ready": true}'),),
            response_format={"type": "json_object"},
        ),
        shows=lambda answer: _is_json(answer.text),
    ),
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one request showed. `known` is False where the endpoint did not answer, and nothing can be said."""

    name: str
    works: bool
    detail: str = ""
    known: bool = True
    word: LlmDialectWord | None = None
    """What to add to FLOTILLA_LLM_DIALECT."""


async def probe_endpoint(settings: LlmSettings) -> AsyncIterator[ProbeResult]:
    """Ask the endpoint once per feature, and yield what each request showed, as it comes.

    The first is a plain answer; when that fails in every form, nothing else is tried. About a dozen small requests in
    all, which the endpoint may charge for.
    """
    plain, answer = await _plain_answer(settings)
    yield plain
    if not plain.works:
        return
    base: tuple[LlmDialectWord, ...] = (*_PLAINEST, *((plain.word,) if plain.word else ()))
    if answer is not None and "</think>" in answer.text:
        yield ProbeResult("reasoning", works=False, detail="begins without its tag", word="begins_with_reasoning")
    yield await _longest_answer(settings, base)
    missing: set[LlmDialectWord | None] = set()
    for feature in FEATURES:
        if feature.needs is None or feature.needs not in missing:
            used = (feature.word, feature.needs)
            result, _ = await _asked(settings, feature, tuple(word for word in base if word not in used))
            missing.add(result.word)
            yield result


def suggest_settings(found: list[ProbeResult]) -> dict[str, str]:
    """Return the variables that fit what was found; those whose default fits are left out."""
    words = [one.word for one in found if one.word]
    variables = {"FLOTILLA_LLM_DIALECT": ",".join(words)} if words else {}
    if any(one.name == "log-probabilities" and one.known and not one.works for one in found):
        variables["FLOTILLA_LLM_LOGPROBS"] = "false"
    return variables


async def _plain_answer(settings: LlmSettings) -> tuple[ProbeResult, Completion | None]:
    streamed = ProbedFeature("a streamed answer", "no_stream", _PLAIN)
    result, answer = await _asked(settings, streamed, _PLAINEST)
    if result.works or not result.known:
        return result, answer
    whole, answer = await _asked(settings, streamed, (*_PLAINEST, "no_stream"))
    return (replace(result, works=True, detail="only as a whole"), answer) if whole.works else (whole, None)


async def _longest_answer(settings: LlmSettings, base: tuple[LlmDialectWord, ...]) -> ProbeResult:
    limited = ProbedFeature("max_tokens", "max_completion_tokens", replace(_PLAIN, max_tokens=_MAX_TOKENS))
    result, _ = await _asked(settings, limited, tuple(word for word in base if word != "max_completion_tokens"))
    if result.works or not result.known:
        return result
    other, _ = await _asked(settings, limited, base)
    return result if other.works else replace(result, word=None)


async def _asked(
    settings: LlmSettings, feature: ProbedFeature, dialect: tuple[LlmDialectWord, ...]
) -> tuple[ProbeResult, Completion | None]:
    model = create_model(settings.model_copy(update={"llm_dialect": dialect, "llm_logprobs": feature.logprobs}))
    try:
        answer = await model.complete(feature.request)
    except ModelRefused as error:
        return ProbeResult(feature.name, works=False, detail=str(error), word=feature.word), None
    except ModelUnavailable as error:
        return ProbeResult(feature.name, works=False, detail=str(error), known=False), None
    finally:
        await model.close()
    if feature.shows(answer):
        return ProbeResult(feature.name, works=True), answer
    # Accepted, but without effect: harmless to send, so that no setting leaves it out.
    return ProbeResult(feature.name, works=False, detail="accepted, but the answer does not show it"), answer


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
