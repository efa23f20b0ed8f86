"""A language model that answers what the test says."""

import re
from collections import deque

from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import Completion, CompletionRequest, OnToken


class FakeModel:
    """Gives its `answers` in order: a text, a whole Completion, or an exception that it raises.

    `requests` holds what it was asked. It is a `flotilla.llm.LanguageModel`.
    """

    name = "fake"
    provider = "flotilla.testing"

    def __init__(self, *answers: str | Completion | Exception) -> None:
        self._answers = deque(answers)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """The next answer, word by word to `on_token`.

        Raises:
            AssertionError: it was asked more often than it has answers.
        """
        self.requests.append(request)
        if not self._answers:
            raise AssertionError(f"call {len(self.requests)} of the model: the test gave no answer for it")
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        made = answer if isinstance(answer, Completion) else _completion(answer)
        if on_token is not None:
            for piece in re.findall(r"\S+\s*|\s+", made.text):
                await on_token(piece)
        return made

    async def close(self) -> None:
        """Nothing to release."""


def _completion(text: str) -> Completion:
    return Completion(text=text, model="fake", usage=TokenUsage(input_tokens=0, output_tokens=len(text.split())))
