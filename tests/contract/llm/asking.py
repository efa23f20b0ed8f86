"""A model that is asked at a scripted endpoint."""

from typing import Any

from flotilla.llm import (
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolSpec,
    create_model,
)
from tests.contract.llm.test_language_models import settings
from tests.support.scripted_endpoint import (
    ScriptedEndpoint,
    events,
    running_endpoint,
)

SEARCH = ToolSpec(name="search", description="Search.", parameters={"type": "object"})
SEND = ToolSpec(name="send", description="Send.", parameters={"type": "object"})
QUESTION = ChatMessage(role="user", content="Who may approve a refund?")
REQUEST = CompletionRequest(messages=(QUESTION,), tools=(SEARCH, SEND), max_tokens=100)
ANSWER = "Marta Quill may approve a refund [1]."
PIECES = ("Marta Quill ", "may approve ", "a refund [1].")
JSON = "application/json"


async def asked(
    endpoint: ScriptedEndpoint, request: CompletionRequest = REQUEST, **changed: Any
) -> tuple[Completion, str]:
    """The answer, and the text that was streamed."""
    pieces: list[str] = []

    async def on_token(piece: str) -> None:
        pieces.append(piece)

    async with running_endpoint(endpoint):
        model = create_model(settings(endpoint.url).model_copy(update=changed))
        try:
            return await model.complete(request, on_token), "".join(pieces)
        finally:
            await model.close()


async def answer_to(*documents: Any, **changed: Any) -> Completion:
    completion, streamed = await asked(ScriptedEndpoint(events(*documents)), **changed)
    assert streamed == completion.text or completion.finish_reason == "refusal"
    return completion
