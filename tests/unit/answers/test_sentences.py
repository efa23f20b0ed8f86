"""Which sentences an answer has, and what each rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.answers.sentences import split_into_statements, statement_before_citation
from tests.support.work import assert_linear


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Cats sleep. [1] They eat fish [2].", [("Cats sleep.", (1,)), ("They eat fish.", (2,))]),
        ("Cats sleep. They eat fish. [2, 3]", [("Cats sleep.", (2, 3)), ("They eat fish.", (2, 3))]),
        ("Cats eat [1]: \n- fish\n- mice.", [("- fish", (1,)), ("- mice.", (1,))]),
        ("Cats sleep. [1]\n\nDogs do not.", [("Cats sleep.", (1,)), ("Dogs do not.", ())]),
        ("Some, e.g. cats, sleep [1].", [("Some, e.g. cats, sleep.", (1,))]),
        ("Version 3.14 is out [1].", [("Version 3.14 is out.", (1,))]),
        ("猫は眠る。[1]犬は走る。[2]", [("猫は眠る。", (1,)), ("犬は走る。", (2,))]),
        ("# Cats\n\nThey sleep [1].", [("They sleep.", (1,))]),
        ("```\nrm x.\n```\nDone [1].", [("Done.", (1,))]),
        ("Read `a [0]` and `b [2]` first [1].", [("Read `a` and `b` first.", (1,))]),
        ("Do you mean cats?", []),
        ("", []),
    ],
)
def test_a_sentence_rests_on_its_own_citations_else_on_those_of_its_paragraph(
    answer: str, expected: list[tuple[str, tuple[int, ...]]]
) -> None:
    assert [(one.text, one.cited) for one in split_into_statements(answer)] == expected


@given(st.text("aB. [1],2]?!\n`#:\u3002", max_size=80))
def test_sentences_are_places_of_the_answer_in_order(answer: str) -> None:
    end = 0
    for one in split_into_statements(answer):
        assert end <= one.start < one.end <= len(answer)
        end = one.end


@pytest.mark.parametrize(
    ("before", "clause"),
    [
        ("Dogs eat bones [1], cats eat fish", ", cats eat fish"),
        ("Cats sleep. They eat fish", "They eat fish"),
        ("Cats sleep. They eat fish.", "They eat fish."),
        ("Dogs eat bones [1], and fish [2][3]", ", and fish"),
        ("[1]", ""),
        ("Some, e.g. cats", "Some, e.g. cats"),
        ("First line\nSecond line", "Second line"),
        ("", ""),
    ],
)
def test_a_citation_is_put_to_what_stands_before_it(before: str, clause: str) -> None:
    assert statement_before_citation(before) == clause


@pytest.mark.parametrize(
    "unit", [". ", "[1]", "a", "\n", "[1, 1]", "!", "```\n", "a. B [1]", " ", "\t", "a. ", " [1", ".  "]
)
def test_an_answer_of_any_length_is_read_in_proportion_to_it(unit: str) -> None:
    for read in (split_into_statements, statement_before_citation):
        assert_linear(read, lambda n: f"a{unit * (n // len(unit))}a")
