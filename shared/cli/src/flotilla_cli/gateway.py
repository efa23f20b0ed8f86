"""The gateway's HTTP API as the verbs use it: JSON in, JSON out, problem documents as errors."""

import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.printing import Document, escape_for_terminal
from flotilla_cli.target import GatewayTarget

PATIENCE_S = 15.0
"""How long a busy gateway (429 or 503 with Retry-After) is asked again."""
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_UNREACHABLE = (
    "is it up? flotilla status shows the local stack, flotilla up starts it; --url or FLOTILLA_URL names another"
)
_BUSY = (429, 503)
_PLAIN = "!#$&'()*+-./:;=?@[]^_`{|}~"
"""Marks that a subject has unencoded in its header; commas, spaces and % are encoded, like all that is not ASCII."""
_HINTS = {
    401: "give a valid key by --token or FLOTILLA_TOKEN",
    403: "use the key of somebody who may (--token; on the local stack --as alice, bob or admin)",
    404: "check the id; flotilla sessions list, runs list and so on show what there is for your key",
    503: "ask again in a while; flotilla doctor looks for the cause",
}
_HINTS_BY_CODE = {
    "run_in_progress": "wait for that run, or stop it: flotilla runs list --status running; flotilla runs cancel ID",
    "self_approval": "somebody else has to decide, by a key of their own (on the local stack --as alice or bob)",
    "own_edit": "somebody who neither asked for it nor edited it has to decide",
    "signature_required": "sign your vote: flotilla approvals approve ID --sign-with KEYFILE; docs/signed-votes.md",
    "signature_invalid": "look at your keys: flotilla signers list; sign what is shown now: flotilla approvals show ID",
    "not_a_person": "decide by the key of a person: flotilla keys create --for NAME --role approver --person",
    "stale_hash": "look at what will be executed now: flotilla approvals show ID",
}
_ERRORS: Mapping[int, type[CliError]] = {400: Misuse, 404: NotFound, 413: Misuse, 415: Misuse, 422: Misuse}


class GatewayClient:
    """One HTTP client with the token on it; may be used from several threads."""

    def __init__(self, target: GatewayTarget) -> None:
        self.target = target
        headers = {"Authorization": f"Bearer {target.token}", "User-Agent": "flotilla-cli"}
        if target.on_behalf_of is not None:
            headers["Flotilla-On-Behalf-Of"] = quote(target.on_behalf_of, safe=_PLAIN)
        transport = httpx.HTTPTransport(retries=2)
        self.client = httpx.Client(
            base_url=f"{target.url}/v1", headers=headers, timeout=_TIMEOUT, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()

    def get(self, path: str, **params: object) -> Any:
        """GET; parameters that are None are left out."""
        return self._json("GET", path, params=_given(params))

    def me(self) -> Any:
        """Who calls: subject, tenant, roles, kind."""
        return self._json("GET", f"{self.target.url}/auth/me")

    def post(self, path: str, body: object = None, **params: object) -> Any:
        """POST under an idempotency key of its own, so that a repetition does nothing twice."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._json("POST", path, json={} if body is None else body, params=_given(params), headers=headers)

    def upload_file(
        self, path: str, name: str, content: bytes, media_type: str, *, method: str = "POST", **fields: str | list[str]
    ) -> Any:
        """POST or PUT of one file as multipart/form-data."""
        return self._json(method, path, files={"file": (name, content, media_type)}, data=fields)

    def download_chunks(self, path: str, **params: object) -> Iterator[bytes]:
        """GET of a body of any length, piece by piece."""
        try:
            with self.client.stream("GET", path, params=_given(params)) as answer:
                if answer.is_error:
                    answer.read()
                    raise error_from_problem(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise gateway_unreachable_error(self.target.url, error) from error

    def put(self, path: str, body: object) -> Any:
        """PUT, which may be repeated."""
        return self._json("PUT", path, json=body)

    def patch(self, path: str, body: object) -> Any:
        """PATCH of changes that may be repeated."""
        return self._json("PATCH", path, json=body)

    def delete(self, path: str, **params: object) -> Any:
        """DELETE; parameters that are None are left out."""
        return self._json("DELETE", path, params=_given(params))

    def each(self, path: str, name: str, **params: object) -> Iterator[Document]:
        """Every row of a listing, a page at a time."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=200, cursor=cursor, **params)
            yield from page[name]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def list_all_pages(self, path: str, name: str, limit: int, **params: object) -> Document:
        """A listing of up to `limit` rows over as many pages as it takes, in the shape of one page."""
        rows: list[Document] = []
        cursor: str | None = None
        while True:
            page = self.get(path, limit=min(limit - len(rows), 200), cursor=cursor, **params)
            rows += page[name]
            cursor = page.get("next_cursor")
            if not cursor or len(rows) >= limit:
                return {name: rows, "next_cursor": cursor}

    def list_session_events(self, session_id: str, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Document]:
        """A session's events by seq, over as many pages as it takes."""
        next_seq: int | None = from_seq
        while next_seq is not None:
            page = self.get(f"/sessions/{session_id}/events", from_seq=next_seq, to_seq=to_seq)
            yield from page["events"]
            following = page.get("next_seq")
            done = not page["events"] or following is None or (to_seq is not None and following > to_seq)
            next_seq = None if done else following

    def _json(self, method: str, path: str, **request: Any) -> Any:
        answer = self._send(method, path, **request)
        if answer.is_error:
            raise error_from_problem(answer)
        return answer.json() if answer.content else {}

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.client.request(method, path, **request)
            except httpx.TransportError as error:
                raise gateway_unreachable_error(self.target.url, error) from error
            pause_s = _retry_after_s(answer)
            if pause_s is None or time.monotonic() + pause_s > deadline:
                return answer
            time.sleep(pause_s)


def _given(params: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _retry_after_s(answer: httpx.Response) -> float | None:
    if answer.status_code not in _BUSY:
        return None
    value = answer.headers.get("Retry-After", "")
    return max(float(value), 0.1) if value.replace(".", "", 1).isdigit() else None


def gateway_unreachable_error(url: str, error: httpx.TransportError) -> CliError:
    """The gateway gave no answer."""
    return CliError(f"no answer from the gateway at {url}: {str(error) or type(error).__name__}", _UNREACHABLE)


def error_from_problem(answer: httpx.Response) -> CliError:
    """An answer's problem document (RFC 9457) as an error with the exit code that fits its status."""
    kind = _ERRORS.get(answer.status_code, CliError)
    document = _problem_document(answer)
    title = document.get("title") or answer.reason_phrase or "error"
    detail = document.get("detail") or answer.text[:500]
    message = f"{title} ({answer.status_code}): {detail}" if detail else f"{title} ({answer.status_code})"
    # The detail of an answer with one error says it already.
    lines = [escape_for_terminal(message), *(line for line in _field_errors(document) if line.strip() not in message)]
    return kind("\n".join(lines), _hint(answer, document), str(document.get("code", "")))


def _hint(answer: httpx.Response, document: Document) -> str:
    trace_id = document.get("trace_id")
    if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR and trace_id:
        return escape_for_terminal(f"trace {trace_id} finds it in the logs of the services")
    by_status = _HINTS.get(answer.status_code, "")
    return escape_for_terminal(document.get("hint") or _HINTS_BY_CODE.get(document.get("code", ""), by_status))


def _problem_document(answer: httpx.Response) -> Document:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _field_errors(document: Document) -> list[str]:
    errors = document.get("errors")
    if not isinstance(errors, list):
        return []
    return [escape_for_terminal(f"  {_where(error)}: {_what(error)}") for error in errors]


def _where(error: Any) -> str:
    if not isinstance(error, dict):
        return "body"
    place = error.get("pointer") or error.get("field") or error.get("loc") or "body"
    return ".".join(map(str, place)) if isinstance(place, list) else str(place)


def _what(error: Any) -> str:
    return (
        str(error.get("detail") or error.get("msg") or error.get("message") or error)
        if isinstance(error, dict)
        else str(error)
    )
