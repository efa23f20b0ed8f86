"""The HTTP client of a model endpoint: OpenAI's or Azure's, with a private certificate authority, through a proxy."""

import ssl
from collections.abc import AsyncIterator

import httpx2
import openai

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError

MAX_ERROR_BYTES = 1_000_000
_PROVIDERS = {
    "openai.azure.com": "azure.ai.openai",
    "anthropic.com": "anthropic",
    "cohere.com": "cohere",
    "deepseek.com": "deepseek",
    "googleapis.com": "gcp.gen_ai",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}
# A local endpoint needs no key, but the client wants one.
_NO_KEY = "none"
_SHORTEST_SECRET = 8
"""A shorter one is a word that an endpoint may say for other reasons."""


def create_endpoint_client(settings: LlmSettings) -> openai.AsyncOpenAI:
    """Return the client. The caller closes it.

    Raises:
        ConfigurationError: the CA file can't be read, or Azure's settings are incomplete.
    """
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else _NO_KEY
    headers = {name: value.get_secret_value() for name, value in settings.llm_extra_headers.items()}
    if settings.llm_azure_api_version is None and settings.llm_azure_deployment is None:
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.openai_base_url,
            max_retries=0,
            timeout=settings.llm_timeout_s,
            default_headers=headers,
            http_client=_http_client(settings),
        )
    if not (settings.llm_azure_api_version and settings.openai_base_url):
        raise ConfigurationError(
            "Azure needs OPENAI_BASE_URL (https://RESOURCE.openai.azure.com) and FLOTILLA_LLM_AZURE_API_VERSION"
        )
    return openai.AsyncAzureOpenAI(
        api_key=key,
        azure_endpoint=settings.openai_base_url,
        azure_deployment=settings.llm_azure_deployment or settings.llm_model,
        api_version=settings.llm_azure_api_version,
        max_retries=0,
        timeout=settings.llm_timeout_s,
        default_headers=headers,
        http_client=_http_client(settings),
    )


def endpoint_secrets(settings: LlmSettings) -> tuple[str, ...]:
    """Return what is sent to the endpoint and must not be shown, the longest first."""
    given = (settings.openai_api_key, *settings.llm_extra_headers.values())
    found = {value.get_secret_value() for value in given if value is not None}
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True))


def provider_name(host: str) -> str:
    """Return who runs the endpoint, as OpenTelemetry's GenAI conventions name them; `openai`, whose form it speaks,
    where the host tells nothing."""
    return next((name for domain, name in _PROVIDERS.items() if f".{host}".endswith(f".{domain}")), "openai")


def _http_client(settings: LlmSettings) -> httpx2.AsyncClient:
    return openai.DefaultAsyncHttpxClient(
        verify=_trusted(settings.llm_ca_file),
        proxy=settings.llm_proxy.get_secret_value() if settings.llm_proxy else None,
        event_hooks={"response": [_bound_errors]},
        follow_redirects=False,
    )


def _trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"FLOTILLA_LLM_CA_FILE: {ca_file} can't be used: {error}") from error


async def _bound_errors(response: httpx2.Response) -> None:
    """Keep a refusal's body within bounds: the client reads it whole before it raises."""
    if response.is_error and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Beginning(response.stream)


class _Beginning(httpx2.AsyncByteStream):
    """The first `MAX_ERROR_BYTES` of a body."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ERROR_BYTES
        async for chunk in self._body:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._body.aclose()
