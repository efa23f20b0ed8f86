"""Twice the text costs at most 2.5 times the work, at every door that takes text, whatever the text is made of.

Each door gets texts that repeat a unit: those that its own syntax knows, and some put together at random from its
marks, the same in each run. Counted is the thread's processor time, the least of several runs (`tests.support.work`).
Not here: elements of HTML in one another, whose parsers look through all open ones for each (WHATWG, "has an element in
scope"). Documents are read by processes that are ended after a time; `test_doors` has that.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flotilla.actions.arguments import to_canonical_numbers
from flotilla.answers.sentences import split_into_statements, statement_before_citation
from flotilla.bus.dead_letters import decode_task_if_possible
from flotilla.contracts.approvals import content_hash
from flotilla.contracts.event_rules import write_violation_of_data
from flotilla.contracts.foreign import decode_foreign_agent_event
from flotilla.contracts.values import to_storable_text, why_not_storable, with_escaped_places
from flotilla.contracts.visible_text import escape_invisible, escape_invisible_in_json
from flotilla.knowledge.documents import UploadedDocument
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.split import split_into_passages
from flotilla.knowledge.terms import split_into_words
from flotilla.llm.answer_text import AnswerTextAssembler
from flotilla_cli.printing import escape_for_terminal, shorten_to_line
from gateway.limits import check_json_complexity
from gateway.paging import read_cursor, read_time_cursor
from tests.support.work import assert_linear
from writer_agent.citations import CitationRenumberer

RANDOM_UNITS = 6
MOST_CHARACTERS = 40_000
"""Four times as many, each escaped in six, are what a bus entry holds."""
MARKS = [*'"\\[]{}(),:;.-_*`#<>/=!&%0a1 \n\t', "\\u0000", "\\ud800", "é", "\u202e", "\U0001f600", "\u0301"]
EVENT = '{"specversion":"1.0","id":"1","type":"t","source":"/s","subject":"s","data":{"task_id":"t","result":%s'


def in_event(text: str) -> bytes:
    """The body of a reply that has `text` in the place of its result, as a process that is not ours writes it."""
    return (EVENT % text).encode("utf-8", "surrogatepass")


def in_a_text(text: str) -> bytes:
    """The body of a reply whose result is `text`."""
    return in_event(json.dumps({"text": text})) + b"}}"


def recorded(text: str) -> object:
    data: dict[str, Any] = {"change": "seen", "details": {text: [text]}}
    return write_violation_of_data("/agents/a", "flotilla.session.state_change.v1", with_escaped_places(data), "s1")


def answered(text: str) -> str:
    answer = AnswerTextAssembler({"search"})
    shown = "".join(answer.feed(text[at : at + 7]) for at in range(0, len(text), 7)) + answer.end()
    citations = CitationRenumberer(3)
    return citations.feed(shown) + citations.end()


def document(name: str) -> Callable[[str], object]:
    """Reads the text as the document `name`."""

    def read(text: str) -> object:
        _, parsed = parse_document(UploadedDocument(uri=f"file:{name}", content=text.encode("utf-8", "replace")))
        return split_into_passages(parsed.blocks)

    return read


DOORS: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "a reply": (
        lambda text: decode_foreign_agent_event(in_event(text)),
        ["[", '{"a":', "[]", '"\\u0000",', '{"":[', '\\"', "1e999,"],
    ),
    "the text of a reply": (
        lambda text: decode_foreign_agent_event(in_a_text(text)),
        ["\x00", "\ud800", "é", "\ufeff", "\\", "\\u0000"],
    ),
    "a dead letter": (lambda text: decode_task_if_possible(in_event(text)), ["[", '{"a":', "1,"]),
    "an event": (recorded, ["\x00", "~", "/", "\ud800a", "~1"]),
    "a value": (lambda text: why_not_storable([*text]), ["\x00", "a"]),
    "an argument": (lambda text: content_hash("pay", {"a": to_canonical_numbers([*text])}), ["\U0001f600", "a"]),
    "a message": (to_storable_text, ["\x00", "\ud800", "\ud83d\ude00"]),
    "an answer": (answered, ["<think>", "</think>", "<tool_call>", "[1", "[1][", '{"name":', "`", "```\n", "\ud83d"]),
    "the sentences of an answer": (
        lambda text: (split_into_statements(f"a{text}a"), statement_before_citation(f"a{text}a")),
        [" ", "\t", ". ", "a. ", ".  ", "[1]", " [1", "\n"],
    ),
    "the console": (escape_invisible, ["\u202e", "\u200b", "\ufe0f", "\U000e0041"]),
    "what is decided about": (escape_invisible_in_json, ["\u202e", "\u200b", "\U000e0041"]),
    "the command line": (
        lambda text: (escape_for_terminal(text), shorten_to_line(text)),
        ["\x1b[31m", "\x9b", "\u202e", "[bold]", "a "],
    ),
    "a body": (
        lambda text: check_json_complexity(text.encode("utf-8", "replace"), 64, 10**9),
        ["[]", '\\"', '"', "1,", '"a":'],
    ),
    "a cursor": (lambda text: (refused(read_cursor, text, 2), refused(read_time_cursor, text)), ["A", "=", "_-"]),
    "a question": (split_into_words, ["a_", "a.b-", "\u0301", "\u5bbf", "a\u00ad"]),
    "a Markdown document": (
        document("a.md"),
        ["[", "# a\n", "*a_ ", "> ", "- a\n", "a_b.", "[a](", "<!--", "| a ", "1. "],
    ),
    "an HTML document": (document("a.html"), ["<table><td>", "<b>", "&#x41;", "<a href=", "<!--", "</p>"]),
    "a plain document": (document("a.txt"), ["a", "\n", "a. ", "\u2028", "a\n\n"]),
}


def refused(read: Callable[..., object], *arguments: object) -> object:
    """What `read` says, also when it refuses."""
    try:
        return read(*arguments)
    except Exception as error:  # noqa: BLE001 - only the work counts here
        return error


def cases() -> Iterator[tuple[str, str]]:
    """Doors with units."""
    chosen = random.Random(21)  # noqa: S311 - the same in each run
    for door, (_, units) in DOORS.items():
        marks = [*MARKS, *units]
        yield from ((door, unit) for unit in units)
        yield from ((door, "".join(chosen.choices(marks, k=chosen.randint(2, 4)))) for _ in range(RANDOM_UNITS))


@pytest.mark.parametrize(("door", "unit"), [*cases()])
def test_twice_the_text_is_at_most_two_and_a_half_times_the_work(door: str, unit: str) -> None:
    take, _ = DOORS[door]
    assert_linear(take, lambda length: unit * (length // len(unit)), most=MOST_CHARACTERS)
