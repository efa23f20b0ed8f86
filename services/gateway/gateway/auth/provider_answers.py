"""What an OpenID provider answers: a JSON object, or one of two errors, whatever it sends."""

import http.client
import json
import ssl
import urllib.request
from typing import Any

TIMEOUT_S = 5.0
MAX_BYTES = 1_000_000


def ask(request: urllib.request.Request, tls: ssl.SSLContext) -> dict[str, Any]:
    """Return the JSON object that the provider answers.

    Raises:
        OSError: it can't be reached, or answers with an error; `HTTPError` has its status.
        ValueError: what it answers is not HTTP, or no JSON object.
    """
    request.add_header("Accept", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=tls) as answer:  # noqa: S310 - checked by callers
            document = json.loads(answer.read(MAX_BYTES))
    except (http.client.HTTPException, RecursionError) as error:
        raise ValueError(f"{request.full_url} can't be read: {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{request.full_url} is not a JSON object")  # noqa: TRY004 - a wrong answer, not a wrong argument
    return document


def required_text(document: dict[str, Any], member: str, url: str) -> str:
    """Return a text member of what `url` answered.

    Raises:
        ValueError: it is missing, or no text.
    """
    text = document.get(member)
    if not isinstance(text, str):
        raise ValueError(f"{url} has no text {member}")  # noqa: TRY004 - a wrong answer, not a wrong argument
    return text
