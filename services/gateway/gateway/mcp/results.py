"""Results of calls, as the protocol has them."""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""An object of the protocol."""
MAX_RESULT_BYTES = 1_000_000
"""A larger result is read by the API instead."""


def content_blocks_result(content: list[Json], *, is_error: bool = False) -> Json:
    """Return a result of content blocks."""
    return {"resultType": "complete", "content": content, "isError": is_error}


def text_result(text: str, structured: Json | None = None) -> Json:
    """Return a result that is a text, and `structured` beside it."""
    answer = content_blocks_result([{"type": "text", "text": text}])
    return answer if structured is None else {**answer, "structuredContent": structured}


def failure(text: str, structured: Json | None = None) -> Json:
    """Return a result that says what went wrong."""
    return {**text_result(text, structured), "isError": True}
