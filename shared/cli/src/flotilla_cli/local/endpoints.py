"""One look at the endpoints that a fleet may have: the language model's, and the receiver of traces."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flotilla_cli.errors import CliError
from flotilla_cli.local.reasons import ServerVariables, hint_for_error

if TYPE_CHECKING:
    from flotilla.config import LlmSettings

_MODEL = ServerVariables("OPENAI_BASE_URL (and FLOTILLA_LLM_PROXY)", "FLOTILLA_LLM_CA_FILE")
_REFUSED = (401, 403)
_SHOWN = 10
_LIMIT_S = 3.0
_LONGEST = 300


async def check_model_endpoint(settings: "LlmSettings") -> str:
    """The endpoint answers, takes the key, and serves the model."""
    import openai

    from flotilla.llm.endpoint_client import create_endpoint_client

    where = settings.openai_base_url or "api.openai.com"
    try:
        async with create_endpoint_client(settings) as client:
            names = [model.id for model in (await client.models.list()).data]
    except openai.APIConnectionError as error:
        hint = hint_for_error(error, _MODEL) or "check OPENAI_BASE_URL, and FLOTILLA_LLM_PROXY if there is a proxy"
        raise CliError(f"{where}: {error.__cause__ or error}", hint) from error
    except openai.APIStatusError as error:
        if error.status_code in _REFUSED:
            raise CliError(f"{where} refuses the key ({error.status_code})", "check OPENAI_API_KEY") from error
        return _untried(where, f"answers {error.status_code}", settings.llm_model)
    except (openai.OpenAIError, ValueError, AttributeError, TypeError):
        return _untried(where, "gives no list", settings.llm_model)
    if names and settings.llm_model not in names and settings.llm_azure_api_version is None:
        hint = f"set FLOTILLA_LLM_MODEL to one of: {', '.join(names[:_SHOWN])}"
        raise CliError(f"{where} does not serve {settings.llm_model}", hint)
    return f"{where} serves {settings.llm_model}"


def _untried(where: str, what: str, model: str | None) -> str:
    return f"{where} {what} where models are listed; model {model} is tried at the first question"


def check_trace_receiver() -> str:
    """The receiver takes an empty batch, sent as services send theirs: with their headers and certificates."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    where = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    with _collected("opentelemetry.exporter.otlp") as said:
        try:
            result = OTLPSpanExporter(timeout=_LIMIT_S).export([])
        except OSError as error:  # a certificate that can't be read
            raise CliError(f"{where}: {error}", "check OTEL_EXPORTER_OTLP_CERTIFICATE and its like") from error
    if result is SpanExportResult.SUCCESS:
        return f"{where} takes traces"
    reason = said[-1][:_LONGEST] if said else "no answer"
    raise CliError(f"{where} takes no traces: {reason}", _hint_of_traces(reason))


def _hint_of_traces(reason: str) -> str:
    if any(code in reason for code in ("401", "403", "Unauthorized", "Forbidden")):
        return "check the login in OTEL_EXPORTER_OTLP_HEADERS: NAME=VALUE[,NAME=VALUE], values percent-encoded"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            "check the receiver's certificate, and OTEL_EXPORTER_OTLP_CERTIFICATE: the authority that signed it (PEM)"
        )
    return "check OTEL_EXPORTER_OTLP_ENDPOINT: OTLP over HTTP, usually port 4318, without /v1/traces"


@contextmanager
def _collected(logger: str) -> Iterator[list[str]]:
    """What is logged in the block, in place of being printed."""
    said: list[str] = []
    watched, handler = logging.getLogger(logger), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    watched.addHandler(handler)
    propagated, watched.propagate = watched.propagate, False
    try:
        yield said
    finally:
        watched.propagate = propagated
        watched.removeHandler(handler)
