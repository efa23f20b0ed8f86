"""Any endpoint that speaks OpenAI's chat completions, streamed.

Source: OpenAI API reference, "Create chat completion" and "The chat completion chunk object".
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

from flotilla.config import LlmSettings
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm.model import (
    ChatMessage,
    Completion,
    CompletionRequest,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    OnToken,
    ToolRequest,
    ToolSpec,
)

_RETRYABLE_STATUS = frozenset((408, 409, 425, 429))
_OUT_OF_MONEY = "insufficient_quota"
_MENDS = {
    401: "check OPENAI_API_KEY",
    403: "check what OPENAI_API_KEY may use",
    404: "check FLOTILLA_LLM_MODEL and OPENAI_BASE_URL",
    400: "an endpoint without log-probabilities needs FLOTILLA_LLM_LOGPROBS=false",
}
# A local endpoint needs no key, but the client wants one.
_NO_KEY = "none"


class OpenAiModel:
    """One model at one endpoint. `max_retries=0`: retries belong to the workflow's policy."""

    provider = "openai"

    def __init__(self, settings: LlmSettings, name: str) -> None:
        self.name = name
        self._timeout_s = settings.llm_timeout_s
        self._logprobs = settings.llm_logprobs
        key = settings.openai_api_key
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else _NO_KEY,
            base_url=settings.openai_base_url,
            max_retries=0,
            timeout=settings.llm_timeout_s,
        )

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Streams the answer; see `LanguageModel.complete`."""
        answer = _Answer(self.name)
        async with self._errors_told(), asyncio.timeout(self._timeout_s):
            stream = await self._client.chat.completions.create(**self._arguments(request))
            async with stream:
                async for chunk in stream:
                    text = answer.add(chunk)
                    if text and on_token:
                        await on_token(text)
        return answer.finished()

    async def close(self) -> None:
        """Closes the connection pool."""
        await self._client.close()

    def _arguments(self, request: CompletionRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.name,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._logprobs:
            arguments["logprobs"] = True
        if request.tools:
            arguments["tools"] = [_tool(tool) for tool in request.tools]
            arguments["tool_choice"] = "auto" if request.may_call_tools else "none"
        if request.max_tokens is not None:
            arguments["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        return arguments

    @asynccontextmanager
    async def _errors_told(self) -> AsyncIterator[None]:
        """Turns the client's errors into those that say whether to try again."""
        try:
            yield
        except (TimeoutError, openai.APITimeoutError) as error:
            raise ModelTimedOut(f"model {self.name} gave no answer within {self._timeout_s:g} s") from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ModelUnavailable(f"model {self.name}: no connection to {self._client.base_url}: {cause}") from error
        except (openai.APIError, json.JSONDecodeError) as error:
            raise ModelUnavailable(f"model {self.name} broke off its answer: {error}") from error

    def _status_error(self, error: openai.APIStatusError) -> ModelRefused | ModelUnavailable:
        status = error.status_code
        said = f"model {self.name} answered {status}: {_reason(error)}"
        if error.code == _OUT_OF_MONEY:
            return ModelRefused(f"{said}; the account has no credit left")
        if status in _RETRYABLE_STATUS or status >= 500:  # noqa: PLR2004 - the server's own fault, by RFC 9110
            return ModelUnavailable(said)
        mend = _MENDS.get(status)
        return ModelRefused(f"{said}; {mend}" if mend else said)


def _reason(error: openai.APIStatusError) -> str:
    told = error.body.get("message") if isinstance(error.body, dict) else None
    return str(told or error.message)


class _Answer:
    """Puts the chunks of one answer together."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._logprobs: list[float] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._usage = TokenUsage()
        self._finish_reason: str | None = None

    def add(self, chunk: ChatCompletionChunk) -> str:
        """Takes in one chunk and gives the text in it."""
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = TokenUsage(
                input_tokens=chunk.usage.prompt_tokens, output_tokens=chunk.usage.completion_tokens
            )
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        if choice.logprobs and choice.logprobs.content:
            self._logprobs.extend(token.logprob for token in choice.logprobs.content)
        for call in choice.delta.tool_calls or []:
            parts = self._calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
            parts["id"] = call.id or parts["id"]
            if call.function:
                parts["name"] += call.function.name or ""
                parts["arguments"] += call.function.arguments or ""
        text = choice.delta.content or ""
        self._text.append(text)
        return text

    def finished(self) -> Completion:
        """The whole answer.

        Raises:
            ModelUnavailable: the stream ended before the answer did.
            ModelRefused: the endpoint's filter kept the answer back.
        """
        if self._finish_reason is None:
            raise ModelUnavailable(
                f"model {self._model} broke off its answer: the stream ended without a finish_reason"
            )
        if self._finish_reason == "content_filter":
            raise ModelRefused(f"model {self._model}: the endpoint's content filter kept the answer back")
        return Completion(
            text="".join(self._text),
            model=self._model,
            finish_reason=self._finish_reason,
            usage=self._usage,
            logprobs=tuple(self._logprobs),
            tool_calls=tuple(_tool_requests(self._calls.values())),
        )


def _tool_requests(calls: Iterable[dict[str, str]]) -> Iterable[ToolRequest]:
    return (
        ToolRequest(call_id=call["id"] or f"call_{n}", name=call["name"], arguments=call["arguments"] or "{}")
        for n, call in enumerate(calls)
    )


def _message(message: ChatMessage) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        document["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
