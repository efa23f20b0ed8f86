"""Any endpoint that speaks OpenAI's chat completions, in whichever dialect.

Source: OpenAI API reference, "Create chat completion" and "The chat completion chunk object".
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai

from flotilla.config import LlmSettings
from flotilla.llm.chat_answer import ChatAnswer
from flotilla.llm.dialects import request_body
from flotilla.llm.endpoint_client import endpoint_client, provider_at
from flotilla.llm.endpoint_errors import EndpointError, endpoint_error, refusal, retry_after_s, text_error
from flotilla.llm.model import (
    Completion,
    CompletionRequest,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    OnToken,
)
from flotilla.llm.server_sent_events import StreamTooLarge, server_sent_events

MAX_EVENT_BYTES = 8_000_000
MAX_ANSWER_BYTES = 32_000_000
_DONE = "[DONE]"


class OpenAiModel:
    """One model at one endpoint. `max_retries=0`: retries belong to the workflow's policy."""

    def __init__(self, settings: LlmSettings, name: str) -> None:
        self.name = name
        self._timeout_s = settings.llm_timeout_s
        self._logprobs = settings.llm_logprobs
        self._dialect = settings.llm_dialect
        self._extra_body = settings.llm_extra_body
        self._client = endpoint_client(settings)
        url = self._client.base_url
        self.server = (url.host, url.port or (443 if url.scheme == "https" else 80))
        """Its address and port."""
        self.provider = provider_at(url.host)

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Stream the answer; see `LanguageModel.complete`."""
        body = request_body(self.name, request, self._dialect, logprobs=self._logprobs)
        answer = ChatAnswer(
            self.name,
            [tool.name for tool in request.tools],
            sum(len(message.content) for message in request.messages),
            begins_with_reasoning="begins_with_reasoning" in self._dialect,
            keeps_all=request.body is not None,
        )
        try:
            await self._read(body, answer, on_token)
            return answer.completion()
        except (ModelRefused, ModelUnavailable) as error:
            error.usage = answer.usage
            raise

    async def _read(self, body: dict[str, Any], answer: ChatAnswer, on_token: OnToken | None) -> None:
        # The client takes no argument that it does not know; what it is given beside them it passes on.
        known: dict[str, Any] = {name: body.pop(name) for name in ("model", "messages", "stream")}
        async with self._errors_translated(), asyncio.timeout(self._timeout_s):
            async with self._client.chat.completions.with_streaming_response.create(
                **known, extra_body={**body, **self._extra_body} or None
            ) as response:
                async for document in self._documents(response.http_response, answer):
                    await _emit(answer.add(document), on_token)
            await _emit(answer.end(), on_token)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def _documents(self, response: httpx2.Response, answer: ChatAnswer) -> AsyncIterator[object]:
        """The chunks of a stream, or the one document of an answer that came whole."""
        if "text/event-stream" not in response.headers.get("content-type", "text/event-stream"):
            answer.mark_complete()
            yield self._checked(await _whole(response), None)
            return
        events = server_sent_events(
            response.aiter_bytes(), max_event_bytes=MAX_EVENT_BYTES, max_stream_bytes=MAX_ANSWER_BYTES
        )
        async for event in events:
            if event.data.strip() == _DONE:
                answer.mark_complete()
                return
            yield self._checked(event.data, event.kind)

    def _checked(self, data: str, kind: str | None) -> object:
        """The JSON document in `data`.

        Raises:
            ModelRefused, ModelUnavailable: it is an error, or no JSON.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as invalid:
            if kind is None:
                raise ModelRefused(
                    f"model {self.name} answered with {text_error(data).message} instead of JSON; check OPENAI_BASE_URL"
                ) from invalid
            if kind == "error":
                raise refusal(self.name, text_error(data)) from invalid
            raise ModelUnavailable(f"model {self.name} broke off its answer: {invalid}") from invalid
        error = endpoint_error(document)
        if error is not None:
            raise refusal(self.name, error)
        return document

    @asynccontextmanager
    async def _errors_translated(self) -> AsyncIterator[None]:
        """Turn the client's errors into those that say whether to try again."""
        try:
            yield
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise ModelTimedOut(f"model {self.name} gave no answer within {self._timeout_s:g} s") from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ModelUnavailable(f"model {self.name}: no connection to {self._client.base_url}: {cause}") from error
        except (openai.APIError, httpx2.HTTPError, httpx2.StreamError) as error:
            raise ModelUnavailable(f"model {self.name} broke off its answer: {error}") from error
        except StreamTooLarge as error:
            raise ModelRefused(f"model {self.name}: {error}, and was not read to its end") from error

    def _status_error(self, error: openai.APIStatusError) -> ModelRefused | ModelUnavailable:
        body = error.response.text
        return refusal(
            self.name, _json_error(body) or text_error(body), error.status_code, retry_after_s(error.response.headers)
        )


def _json_error(body: str) -> EndpointError | None:
    try:
        return endpoint_error(json.loads(body))
    except (ValueError, RecursionError):
        return None


async def _emit(text: str, on_token: OnToken | None) -> None:
    if text and on_token is not None:
        await on_token(text)


async def _whole(response: httpx2.Response) -> str:
    read: list[bytes] = []
    size_bytes = 0
    async for chunk in response.aiter_bytes():
        size_bytes += len(chunk)
        if size_bytes > MAX_ANSWER_BYTES:
            raise StreamTooLarge(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        read.append(chunk)
    return b"".join(read).decode("utf-8-sig", "replace")
