"""Requests that chat programs send beside a conversation: a title for it, tags, follow-up questions.

Open WebUI and similar programs send them to the same model. They ask nothing of the fleet's documents, so they are
answered from the request itself, without a run.
"""

import json
from collections.abc import Sequence

from gateway.openai.messages import InputMessage

_BEGINNING = "### Task:"
_HISTORY = "<chat_history>"
_WORDS = 6
_CHARACTERS = 60
_KINDS: tuple[tuple[str, object], ...] = (
    ("title", None),
    ("tags", ["General"]),
    ("follow_ups", []),
    ("queries", []),
    ("text", ""),
)
"""The field that the answer has, as its prompt names it, and what it holds."""


def answer_to_client_housekeeping(messages: Sequence[InputMessage]) -> str | None:
    """Return the answer to such a request; None for a question."""
    text = messages[-1].text
    if messages[-1].role != "user" or not text.startswith(_BEGINNING) or _HISTORY not in text:
        return None
    for name, value in _KINDS:
        if f'"{name}":' in text:
            return json.dumps({name: _title(text) if name == "title" else value}, ensure_ascii=False)
    return "{}"


def _title(text: str) -> str:
    """Return the first words of the conversation."""
    history = text[text.rindex(_HISTORY) + len(_HISTORY) :].strip()
    line = history.partition("\n")[0].removeprefix("USER:")
    return " ".join(line.split()[:_WORDS])[:_CHARACTERS] or "Conversation"
