"""Any endpoint that speaks OpenAI's chat completions, in whichever dialect.

Source: OpenAI API reference, "Create chat completion" and "The chat completion chunk object".
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import httpx2
import openai

from flotilla.config import LlmSettings
from flotilla.llm.answer_body import DONE, AnswerDocument, NotJsonAnswer, parse_documents, stream_documents
from flotilla.llm.chat_answer import ChatAnswerAssembler
from flotilla.llm.dialects import build_request_body
from flotilla.llm.endpoint_client import create_endpoint_client, endpoint_secrets, provider_name
from flotilla.llm.endpoint_errors import error_from_endpoint, retry_after_s
from flotilla.llm.endpoint_words import EndpointErrorText, parse_json_error, parse_text_error
from flotilla.llm.model import (
    Completion,
    CompletionRequest,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    OnToken,
)
from flotilla.llm.server_sent_events import StreamTooLarge

_AFTER_FINISH_S = 5.0
"""How long the next chunk may take after the finish reason: the usage comes then, or nothing."""


class OpenAiModel:
    """One model at one endpoint. `max_retries=0`: retries belong to the workflow's policy."""

    def __init__(self, settings: LlmSettings, name: str) -> None:
        self.name = name
        self._timeout_s = settings.llm_timeout_s
        self._logprobs = settings.llm_logprobs
        self._dialect = settings.llm_dialect
        self._extra_body = settings.llm_extra_body
        self._client = create_endpoint_client(settings)
        self._secrets = endpoint_secrets(settings)
        url = self._client.base_url
        self.server = (url.host, url.port or (443 if url.scheme == "https" else 80))
        """Its address and port."""
        self.provider = provider_name(url.host)

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Stream the answer; see `LanguageModel.complete`."""
        body = build_request_body(self.name, request, self._dialect, logprobs=self._logprobs)
        answer = ChatAnswerAssembler(
            self.name,
            [tool.name for tool in request.tools],
            sum(len(message.content) for message in request.messages),
            begins_with_reasoning="begins_with_reasoning" in self._dialect,
            keeps_all=request.body is not None,
        )
        try:
            await self._read(body, answer, on_token)
            return answer.to_completion()
        except (ModelRefused, ModelUnavailable) as error:
            error.usage = answer.tokens_so_far
            raise

    async def _read(self, body: dict[str, Any], answer: ChatAnswerAssembler, on_token: OnToken | None) -> None:
        # The client takes no argument that it does not know; what it is given beside them it passes on.
        known: dict[str, Any] = {name: body.pop(name) for name in ("model", "messages", "stream")}
        async with (
            self._errors_translated(answer),
            asyncio.timeout(self._timeout_s) as limit,
            self._client.chat.completions.with_streaming_response.create(
                **known, extra_body={**body, **self._extra_body} or None
            ) as response,
        ):
            latest = limit.when()
            async for document in self._documents(response.http_response, answer):
                await _emit(answer.add(document), on_token)
                if answer.is_finished and latest is not None:
                    limit.reschedule(min(latest, asyncio.get_running_loop().time() + _AFTER_FINISH_S))
        await _emit(answer.end(), on_token)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def _documents(self, response: httpx2.Response, answer: ChatAnswerAssembler) -> AsyncIterator[object]:
        """The chunks of a stream, or the one document of an answer that came whole.

        Raises:
            ModelRefused, ModelUnavailable: one is an error, or no JSON.
        """
        if response.status_code == HTTPStatus.NO_CONTENT:
            raise ModelRefused(f"model {self.name} answered 204: an empty answer; check OPENAI_BASE_URL")
        try:
            async for document in stream_documents(response.aiter_bytes(), response.headers.get("content-type", "")):
                if document is DONE:
                    answer.mark_complete()
                    return
                if error := _error_in(document):
                    raise self._refusal(error)
                yield document.value
        except NotJsonAnswer as invalid:
            raise self._no_json(invalid) from invalid

    def _no_json(self, invalid: NotJsonAnswer) -> ModelRefused | ModelUnavailable:
        if not invalid.is_whole:
            return ModelUnavailable(f"model {self.name} broke off its answer: {invalid}")
        words = self._without_secrets(parse_text_error(invalid.text)).message
        return ModelRefused(f"model {self.name} answered with {words} instead of JSON; check OPENAI_BASE_URL")

    @asynccontextmanager
    async def _errors_translated(self, answer: ChatAnswerAssembler) -> AsyncIterator[None]:
        """Turn the client's errors into those that say whether to try again. After the answer's end, nothing that
        happens to the connection matters: it is here, and paid for."""
        try:
            yield
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException) as error:
            if not answer.is_finished:
                raise ModelTimedOut(f"model {self.name} gave no answer within {self._timeout_s:g} s") from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ModelUnavailable(f"model {self.name}: no connection to {self._client.base_url}: {cause}") from error
        except httpx2.DecodingError as error:
            raise ModelRefused(
                f"model {self.name}: the answer is not what its Content-Encoding says: {error}; check OPENAI_BASE_URL"
            ) from error
        except (openai.APIError, httpx2.HTTPError, httpx2.StreamError) as error:
            if not answer.is_finished:
                raise ModelUnavailable(f"model {self.name} broke off its answer: {error}") from error
        except StreamTooLarge as error:
            raise ModelRefused(f"model {self.name}: {error}, and was not read to its end") from error

    def _status_error(self, error: openai.APIStatusError) -> ModelRefused | ModelUnavailable:
        body, headers = error.response.text, error.response.headers
        found = _json_error(body) or parse_text_error(body)
        if error.response.has_redirect_location:
            # Followed, it would take the prompt to whichever host the answer names.
            found = EndpointErrorText(f"it points to {headers['location']!r:.200}; set OPENAI_BASE_URL to it")
        return self._refusal(found, error.status_code, retry_after_s(headers))

    def _refusal(
        self, error: EndpointErrorText, status: int | None = None, retry_after_s: float | None = None
    ) -> ModelRefused | ModelUnavailable:
        return error_from_endpoint(self.name, self._without_secrets(error), status, retry_after_s)

    def _without_secrets(self, error: EndpointErrorText) -> EndpointErrorText:
        """Endpoints repeat the key that they refuse, and their words go into events and logs."""
        message = error.message
        for secret in self._secrets:
            message = message.replace(secret, "[secret]")
        return replace(error, message=message)


def _error_in(document: AnswerDocument) -> EndpointErrorText | None:
    if document.is_error and isinstance(document.value, str):
        return parse_text_error(document.value)
    return parse_json_error(document.value)


def _json_error(body: str) -> EndpointErrorText | None:
    try:
        return next(filter(None, map(parse_json_error, parse_documents(body))), None)
    except (ValueError, RecursionError):
        return None


async def _emit(text: str, on_token: OnToken | None) -> None:
    if text and on_token is not None:
        await on_token(text)
