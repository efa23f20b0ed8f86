"""What an endpoint says when it refuses, in one form.

Endpoints differ in where they put the reason: `{"error": {…}}`, `{"error": "…"}`, `{"detail": …}`, a list, plain text,
an HTML page of a proxy, an error inside another's message; as a status, inside the stream, or with status 200.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flotilla.llm.answer_text import to_well_formed_unicode

MAX_REASON_CHARACTERS = 600
_MAX_NESTED = 4
_MARKUP_TITLE = re.compile(r"<(title|message)>([^<]*)<", re.IGNORECASE)
_RETRY_DELAY = re.compile(r"(\d{1,6}(?:\.\d+)?)s")


@dataclass(frozen=True, slots=True)
class EndpointErrorText:
    """An endpoint's own words: `message`, and `code`, `type` and `param` where it names them."""

    message: str
    code: str = ""
    type: str = ""
    param: str = ""
    retry_after_s: float | None = None
    """How long it asks to wait, inside the answer."""

    @property
    def code_and_type(self) -> str:
        """Its code and type in lower case."""
        return f"{self.code} {self.type}".lower()

    @property
    def all_text(self) -> str:
        """All of it in lower case, to look for what it is about."""
        return f"{self.code_and_type} {self.param} {self.message}".lower()


def parse_json_error(document: object) -> EndpointErrorText | None:
    """Return the error that a JSON answer is, or None if it is none."""
    if isinstance(document, Sequence) and not isinstance(document, str) and document:
        document = document[0]
    if not isinstance(document, Mapping):
        return None
    try:
        error = _error_of(document)
        return _named(error) if error else None
    except RecursionError:
        return EndpointErrorText("an error that is nested too deep")


def parse_text_error(body: str) -> EndpointErrorText:
    """Return the error of an answer that is not JSON: an HTML page is named by its title."""
    start = body[:4096].lstrip()
    if start[:1] != "<":
        return EndpointErrorText(to_one_safe_line(body.strip()) or "an empty answer")
    kind = "an HTML page" if "html" in start.lower() else "an XML document"
    title = _MARKUP_TITLE.search(body[:65_536])
    return EndpointErrorText(kind + (f" ({to_one_safe_line(title[2].strip())})" if title and title[2].strip() else ""))


def to_one_safe_line(text: str) -> str:
    """Return one line of at most `MAX_REASON_CHARACTERS`, in which nothing steers a terminal or a log."""
    head = to_well_formed_unicode(text[: MAX_REASON_CHARACTERS * 2])
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in head).split())
    is_cut = len(line) > MAX_REASON_CHARACTERS or len(text) > len(head)
    return line[:MAX_REASON_CHARACTERS] + ("…" if is_cut else "")


def _error_of(document: Mapping[str, Any]) -> object:
    """The part of a document that is an error: under `error`, or all of it where it is no answer."""
    if error := document.get("error"):
        return error
    if document.get("object") == "error" or document.get("type") == "error":
        return document
    if choices := document.get("choices"):
        first = choices[0] if isinstance(choices, list) else choices
        return first.get("error") if isinstance(first, Mapping) else None
    refused = document.get("base_resp")
    if isinstance(refused, Mapping) and refused.get("status_msg"):
        return refused
    if any(isinstance(document.get(key), str) for key in ("message", "msg")) or document.get("detail"):
        return document
    return document.get("errors")


def _named(error: object) -> EndpointErrorText:
    error = _innermost(error)
    if not isinstance(error, Mapping):
        return EndpointErrorText(to_one_safe_line(_plain(error)))
    message, code = _message_in(error), error.get("code") or error.get("status") or error.get("status_code")
    param = error.get("param") or _place_in(error.get("detail"))
    return EndpointErrorText(
        to_one_safe_line(_plain(message)),
        to_one_safe_line(str(code or "")),
        to_one_safe_line(str(error.get("type") or "")),
        to_one_safe_line(str(param or "")),
        _delay_in(error.get("details")),
    )


def _innermost(error: object) -> object:
    """The error itself: gateways wrap it in others of the same form, in lists, and as JSON text in a message."""
    for _ in range(_MAX_NESTED):
        inner = _inner(error)
        if inner is None:
            break
        error = inner
    return error


def _inner(error: object) -> object:
    if isinstance(error, str):
        return _loaded(error)
    if isinstance(error, Sequence):
        return error[0] if len(error) == 1 else None
    if isinstance(error, Mapping):
        return error.get("error") or _loaded(error.get("message"))
    return None


def _loaded(text: object) -> object:
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _message_in(error: Mapping[str, Any]) -> object:
    named = (error.get(key) for key in ("message", "msg", "detail", "status_msg"))
    message = next(filter(None, named), dict(error))
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if not raw:
        return message
    behind = _innermost(raw)  # a router's message says only that the provider behind it failed
    return f"{_plain(message)}: {_plain(_message_in(behind) if isinstance(behind, Mapping) else behind)}"


def _place_in(detail: object) -> str:
    """The field that the first of pydantic's details is about."""
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, Mapping) else None
    return str(place[-1]) if isinstance(place, list) and place else ""


def _delay_in(details: object) -> float | None:
    """As Google's `RetryInfo` says it."""
    for one in details if isinstance(details, list) else ():
        delay = one.get("retryDelay") if isinstance(one, Mapping) else None
        if isinstance(delay, str) and (found := _RETRY_DELAY.fullmatch(delay)):
            return float(found[1])
    return None


def _plain(value: object) -> str:
    """Words for a person: texts as they are, details as `field: message`, all else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(_plain(one) for one in value[:_MAX_NESTED])
    if isinstance(value, Mapping) and isinstance(value.get("msg"), str):
        place = value.get("loc")
        return ": ".join([*_path(place), value["msg"]])
    return json.dumps(value, ensure_ascii=False)


def _path(place: object) -> Iterator[str]:
    if isinstance(place, list) and place:
        yield ".".join(map(str, place))
