import pytest

from flotilla.knowledge.terms import K1, PIVOT_TERMS, WEIGHT_UNIT, B, compounds, weights_of, words
from tests.support.work import assert_linear


def test_names_of_several_words_are_terms_of_their_own() -> None:
    assert compounds("Use os.path.join, read_text and __init__ (UTF-8)!") == [
        "os.path.join",
        "read_text",
        "__init__",
        "utf-8",
    ]


def test_punctuation_is_no_part_of_a_word() -> None:
    assert words("os.path.join(read_text)").split() == ["os", "path", "join", "read", "text"]


@pytest.mark.parametrize("text", ["a..b", "_", "-a-", "a.-b", ".", "word"])
def test_separators_alone_make_no_name(text: str) -> None:
    assert compounds(text) == []


@pytest.mark.parametrize("word", ["a", "a_", "_", "a.", "a-b..", "._-", "\u0301", "\u00e9", "1", "a\u200b", "\u5bbf"])
def test_looking_for_names_takes_time_in_proportion_to_the_text(word: str) -> None:
    assert_linear(compounds, lambda n: word * (n // len(word)))
    assert_linear(words, lambda n: word * (n // len(word)))


def test_a_weight_is_that_of_bm25_with_a_pivot_length() -> None:
    weights = weights_of([("a", 3), ("b", 2)], ["a.b"])
    normal = K1 * (1 - B + B * 5 / PIVOT_TERMS)
    assert weights["a"] == round(WEIGHT_UNIT * 3 * (K1 + 1) / (3 + normal))
    assert weights["a.b"] == round(WEIGHT_UNIT * (K1 + 1) / (1 + normal))


@pytest.mark.parametrize("count", [1, 10, 100_000])
def test_a_weight_stays_below_its_limit(count: int) -> None:
    assert 0 < weights_of([("a", count)], [])["a"] <= WEIGHT_UNIT * (K1 + 1) < 32_767
