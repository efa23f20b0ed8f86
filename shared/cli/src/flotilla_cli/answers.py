"""How a run, its answer and its live events look."""

from collections.abc import Collection, Mapping
from typing import Any

from flotilla_cli.live import LiveEvent
from flotilla_cli.printing import (
    Document,
    TableColumn,
    escape_for_terminal,
    print_notice,
    print_table,
    say,
    shorten_to_line,
    write_stdout,
)

BASES = {
    "token_logprobs": "from the model's token probabilities",
    "retrieval_scores": "from how well the passages match the question",
    "calibrated": "the share of answers like this one that were right on judged questions",
}
ENDINGS = {
    "length": "The answer is cut off: the model reached the longest answer that it may write "
    "(FLOTILLA_LLM_MAX_OUTPUT_TOKENS, or the endpoint's own limit).",
    "refusal": "The model declined to answer; what it wrote is its reason.",
}


class AnswerPrinter:
    """Prints a run's tokens as they come, and knows what it printed."""

    def __init__(self) -> None:
        self.text = ""

    def take(self, event: LiveEvent) -> None:
        """Show one live event."""
        if event.kind == "token":
            self._token(str(event.data.get("text", "")))
        elif event.kind == "reset":
            self._reset(event.data)
        elif event.kind == "step":
            self._step(event.data)

    def finish_answer(self, answer: str) -> None:
        """End the line; show the whole answer if what came live is not all of it."""
        if self.text.strip() != answer.strip():
            self._break_line()
            say(answer)
        else:
            self._break_line()

    def _token(self, text: str) -> None:
        self.text += text
        write_stdout(text)

    def _reset(self, data: Mapping[str, Any]) -> None:
        if self.text:
            self._break_line()
            print_notice(f"the attempt broke off; attempt {data.get('attempt', '?')} starts the answer again")
        self.text = ""

    def _step(self, data: Mapping[str, Any]) -> None:
        if not self.text:
            print_notice(f"· {format_step(data)}")

    def _break_line(self) -> None:
        if self.text and not self.text.endswith("\n"):
            write_stdout("\n")


def format_step(data: Mapping[str, Any]) -> str:
    """`research started`, with the attempt when it is not the first."""
    attempt = data.get("attempt") or 1
    again = f" (attempt {attempt})" if attempt != 1 else ""
    return f"{data.get('step', '?')} {data.get('status', '')}{again}"


def print_answer_details(result: Document, removed: Collection[str] = ()) -> None:
    """Sources, and the confidence with its basis; `removed` are documents that are no longer there."""
    sources = result.get("sources") or []
    say()
    if searched := format_search_query(result):
        say(searched, style="dim")
    say("Sources", style="bold")
    rows = [{"n": f"[{n}]", **source} for n, source in enumerate(sources, 1)]
    state = TableColumn("document", lambda source: "removed" if source.get("document_id") in removed else "there")
    print_table(rows, (*_SOURCES, state) if removed else _SOURCES, "The answer has no source.")
    say()
    if ending := ENDINGS.get(str(result.get("finish_reason"))):
        say(ending, style="yellow")
    for line in format_support(result):
        say(line, style="yellow")
    say(format_confidence(result))
    say(format_model_usage(result), style="dim")


def format_search_query(result: Document) -> str:
    """What the search got, for a follow-up: what was said before is in front of it."""
    searched = str(result.get("searched_for") or "")
    return f"Searched for: {shorten_to_line(searched, 300)}" if searched else ""


def format_support(result: Document) -> list[str]:
    """What of the answer its sources do not support, and that it was declined."""
    answer = str(result.get("answer") or "")
    lines = [
        f"Not supported by {'what it cites' if one.get('sources') else 'any source'}: {_sentence(answer, one)}"
        for one in _objects(result.get("statements"))
        if one.get("supported") is False
    ]
    for one in _objects(result.get("dropped_citations")):
        [source] = _objects([one.get("source")]) or [{}]
        statement = shorten_to_line(one.get("statement", ""), 200)
        lines.append(
            f"Dropped: {shorten_to_line(source.get('title', '?'))} says nothing of what it was cited for: {statement}"
        )
    if result.get("abstained") is True:
        lines.append("The fleet declined to answer: what was found is not likely to answer the question.")
    return lines


def _sentence(answer: str, statement: Document) -> str:
    start, end = statement.get("start"), statement.get("end")
    return shorten_to_line(answer[start:end] if isinstance(start, int) and isinstance(end, int) else "?", 200)


def _objects(value: object) -> list[Document]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def format_confidence(result: Document) -> str:
    """The figure and what it is computed from."""
    basis = str(result.get("confidence_basis") or "basis not given")
    confidence = result.get("confidence")
    figure = f"{confidence:.2f}" if isinstance(confidence, int | float) and 0 <= confidence <= 1 else "unknown"
    return f"Confidence {figure}, {BASES.get(basis, basis)} ({basis})"


def format_model_usage(result: Document) -> str:
    """Which model wrote it, and what it used."""
    usage = result.get("usage") or {}
    tokens = f"{usage.get('input_tokens', 0)} tokens in, {usage.get('output_tokens', 0)} out"
    estimated = " (estimated: the endpoint does not count them)" if usage.get("estimated") else ""
    return f"Model {escape_for_terminal(result.get('model') or 'unknown')}; {tokens}{estimated}"


def _position(source: Document) -> object:
    return source.get("place") or f"characters {source.get('start', '?')}-{source.get('end', '?')}"


_SOURCES = (
    TableColumn("", "n"),
    TableColumn("title", "title"),
    TableColumn("uri", "uri"),
    TableColumn("place", _position),
    TableColumn("score", "score", "right"),
)


def failure_reason(run: Document) -> str:
    """The reason of a run that did not succeed."""
    error = run.get("error")
    if isinstance(error, dict):
        kind, message = error.get("type", ""), error.get("message") or error.get("detail") or error
        return escape_for_terminal(f"{kind}: {message}" if kind else message)
    return escape_for_terminal(error or "no reason given")
