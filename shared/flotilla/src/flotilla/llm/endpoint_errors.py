"""What an endpoint's refusal means: try again later, or never, and which setting would change it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flotilla.llm.endpoint_words import EndpointErrorText
from flotilla.llm.model import ModelRefused, ModelUnavailable

_RETRYABLE_STATUS = frozenset((408, 409, 423, 425, 429, 499))
_SERVER_ERROR = 500
_NEVER_SERVED = frozenset((501, 505))
_BUSY_WORDS = ("rate_limit", "overload", "server_error", "unavailable", "timeout", "too_many", "capacity", "internal")
_QUOTA_WORDS = (
    "insufficient_quota",
    "billing",
    "exceeded your current quota",
    "insufficient_balance",
    "insufficient balance",
    "no credit",
)
_CONTEXT_WORDS = (
    "context_length",
    "maximum context",
    "context window",
    "context length",
    "context size",
    "prompt is too long",
)
_FILTER_WORDS = ("content_filter", "content_policy", "content management policy", "responsibleaipolicy")
_FINAL_WORDS = ("invalid", "unsupported", "not_found", "not_allowed", "permission", "authentication", "badrequest")
_BUSY_MESSAGE = ("rate limit", "overload", "unavailable", "timeout", "timed out", "too many", "upstream", "try again")
_FINAL_MESSAGE = ("invalid", "unsupported", "not found", "not authenticated", "unauthorized", "denied", "not supported")
_MODEL_WORDS = ("model_not_found", "valid model", "invalid model", "unknown model", "no such model", "model not found")
_STATUS_HINTS = {
    401: "check OPENAI_API_KEY",
    402: "the account has no credit left",
    403: "check what OPENAI_API_KEY may use",
    404: "check FLOTILLA_LLM_MODEL and OPENAI_BASE_URL",
    405: "check OPENAI_BASE_URL",
    407: "check FLOTILLA_LLM_PROXY",
    413: "the prompt is too large for the endpoint: lower top_k or FLOTILLA_WRITER_HISTORY_TURNS",
}
_NO_CREDIT = "the account has no credit left"
_CONTEXT_HINT = (
    "the prompt does not fit the model: lower top_k or FLOTILLA_WRITER_HISTORY_TURNS, or use a model with more context"
)
_MODEL_HINT = "check FLOTILLA_LLM_MODEL"
_FILTER_HINT = "the endpoint's content filter refused this text; the same request will be refused again"
_WORD_HINTS = ((_QUOTA_WORDS, _NO_CREDIT), (_CONTEXT_WORDS, _CONTEXT_HINT), (_FILTER_WORDS, _FILTER_HINT))
_PARAMETER_HINTS = (
    ("logprobs", "set FLOTILLA_LLM_LOGPROBS=false"),
    ("stream_options", "add no_stream_options to FLOTILLA_LLM_DIALECT"),
    ("tool_choice", "add no_tool_choice to FLOTILLA_LLM_DIALECT"),
    ("parallel_tool_calls", "add no_tool_choice to FLOTILLA_LLM_DIALECT"),
    ("tool choice", "start the endpoint with tool calls enabled, or add no_tools to FLOTILLA_LLM_DIALECT"),
    ("tool", "add no_tools to FLOTILLA_LLM_DIALECT, or name a model that can call tools in FLOTILLA_LLM_MODEL"),
    ("function", "add no_tools to FLOTILLA_LLM_DIALECT, or name a model that can call tools in FLOTILLA_LLM_MODEL"),
    ("response_format", "add no_response_format to FLOTILLA_LLM_DIALECT"),
    ("json_schema", "add no_response_format to FLOTILLA_LLM_DIALECT"),
    ("temperature", "add no_temperature to FLOTILLA_LLM_DIALECT"),
    ("system", "add no_system_role to FLOTILLA_LLM_DIALECT"),
    ("reasoning", "add no_reasoning to FLOTILLA_LLM_DIALECT"),
    ("seed", "add no_seed to FLOTILLA_LLM_DIALECT"),
    ("stream", "add no_stream to FLOTILLA_LLM_DIALECT"),
)


def error_from_endpoint(
    model: str, error: EndpointErrorText, status: int | None = None, retry_after_s: float | None = None
) -> ModelRefused | ModelUnavailable:
    """Return what to raise for `error`. `status` is None inside a stream, and where the status reported success."""
    status = status if status is not None else _status_in(error)
    answered = f"answered {status}" if status is not None else "answered with an error"
    said = f"model {model} {answered}: {error.message}"
    if _is_final(error, status):
        hint = setting_to_change(error, status)
        return ModelRefused(f"{said}; {hint}" if hint else said)
    return ModelUnavailable(said, retry_after_s=error.retry_after_s if retry_after_s is None else retry_after_s)


def setting_to_change(error: EndpointErrorText, status: int | None) -> str:
    """Return which setting to change, or an empty text where none would help."""
    words = error.all_text
    by_words = (hint for looked_for, hint in _WORD_HINTS if _any(looked_for, words))
    if hint := next(by_words, "") or _STATUS_HINTS.get(status or 0, ""):
        return hint
    if _any(_MODEL_WORDS, words):
        return _MODEL_HINT
    if "max_tokens" in words or "max_completion_tokens" in words:
        return _max_tokens_hint(words)
    param = error.param.lower()
    by_param = (hint for word, hint in _PARAMETER_HINTS if param and word in param)
    return next(by_param, next((hint for word, hint in _PARAMETER_HINTS if word in words), ""))


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return how long the endpoint asks to wait, in seconds; None where it names no time (RFC 9110, Retry-After)."""
    if milliseconds := headers.get("retry-after-ms", ""):
        return _positive(milliseconds, scale=0.001)
    value = headers.get("retry-after", "")
    if not value:
        return None
    if (seconds := _positive(value)) is not None:
        return seconds
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def _max_tokens_hint(words: str) -> str:
    if "max_completion_tokens' instead" in words or "use max_completion_tokens" in words or "unsupported" in words:
        wanted = "max_tokens" if "max_tokens' instead" in words else "max_completion_tokens"
        if wanted == "max_completion_tokens":
            return "add max_completion_tokens to FLOTILLA_LLM_DIALECT"
        return "take max_completion_tokens off FLOTILLA_LLM_DIALECT"
    return "change FLOTILLA_LLM_MAX_OUTPUT_TOKENS to what the model allows"


def _is_final(error: EndpointErrorText, status: int | None) -> bool:
    words = error.all_text
    if error.retry_after_s is not None and "insufficient_quota" not in error.code_and_type:
        return False  # some call a rate limit a quota, and say when it is over
    if _any(_QUOTA_WORDS + _CONTEXT_WORDS + _FILTER_WORDS, words):
        return True
    if status is not None and status < _SERVER_ERROR:
        return status not in _RETRYABLE_STATUS
    if _any(_BUSY_WORDS, error.code_and_type):
        return False
    if _any(_FINAL_WORDS, error.code_and_type) or status in _NEVER_SERVED:
        return True
    return status is None and not _any(_BUSY_MESSAGE, words) and _any(_FINAL_MESSAGE, words)


def _status_in(error: EndpointErrorText) -> int | None:
    """The HTTP status that an error inside a stream gives as its code."""
    return int(error.code) if error.code.isdecimal() and len(error.code) == len("404") else None


def _positive(text: str, scale: float = 1.0) -> float | None:
    """A number of seconds from a header; None for anything that is not a finite number of at least 0."""
    whole, _, fraction = text.strip().partition(".")
    is_number = whole.isascii() and whole.isdigit() and (not fraction or (fraction.isascii() and fraction.isdigit()))
    return float(text) * scale if is_number and len(text) <= 12 else None  # noqa: PLR2004 - longer than any sane wait


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)
