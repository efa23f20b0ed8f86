import pytest

from flotilla.knowledge.terms import MAX_TERM_CHARACTERS, split_into_words
from tests.support.work import assert_linear

SOFT_HYPHEN = "\N{SOFT HYPHEN}"
ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def test_names_of_several_words_are_their_words_and_a_term_of_their_own() -> None:
    found = split_into_words("Use os.path.join, read_text and __init__ (UTF-8)!")
    assert found.words == ["use", "os", "path", "join", "read", "text", "and", "init", "utf", "8"]
    assert found.names == ["os.path.join", "read_text", "__init__", "utf-8"]


@pytest.mark.parametrize("text", ["wait...", "so -- called", "-----", "___", "a, b; c", "end. Next", "(-x)"])
def test_punctuation_makes_no_name(text: str) -> None:
    assert split_into_words(text).names == []


@pytest.mark.parametrize(
    ("written", "same"),
    [
        (f"data{SOFT_HYPHEN}base", "database"),
        (f"data{ZERO_WIDTH_SPACE}base", "database"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "café"),
        ("Ｆｕｌｌ　Ｗｉｄｔｈ １２３", "full width 123"),
        ("ﬁle", "file"),
        ("STRASSE", "straße"),
        ("\N{ARABIC LETTER KAF}\N{ARABIC FATHA}\N{ARABIC LETTER TEH}", "\N{ARABIC LETTER KAF}\N{ARABIC LETTER TEH}"),
        ("\N{BYTE ORDER MARK}\N{LEFT-TO-RIGHT EMBEDDING}fish\N{POP DIRECTIONAL FORMATTING}", "fish"),
    ],
)
def test_what_looks_the_same_is_the_same(written: str, same: str) -> None:
    assert split_into_words(written).words == split_into_words(same).words


def test_words_of_a_script_with_vowel_marks_are_whole() -> None:
    assert split_into_words("हिन्दी में").words == ["हिन्दी", "में"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("東京都", ["東", "京", "都", "東京", "京都"]),
        ("猫は", ["猫", "は"]),
        ("データ", ["デー", "ータ"]),
        ("한국어 사전", ["한국", "국어", "사전"]),
        ("ราคา", ["รา", "าค", "คา"]),
        ("PDF文書", ["pdf", "文", "書", "文書"]),
    ],
)
def test_scripts_without_spaces_become_pairs(text: str, words: list[str]) -> None:
    assert split_into_words(text).words == words


def test_a_question_asks_for_pairs_alone_and_for_a_single_character_where_it_is_one() -> None:
    assert split_into_words("東京", asked=True).words == ["東京"]
    assert split_into_words("猫", asked=True).words == ["猫"]


def test_a_long_word_counts_by_its_beginning() -> None:
    assert split_into_words("x" * 5000).words == ["x" * MAX_TERM_CHARACTERS]
    assert split_into_words("é" * 5000).words == ["é" * MAX_TERM_CHARACTERS]
    assert split_into_words("a." * 5000).names == []


@pytest.mark.parametrize(
    "unit",
    [
        "a_",
        "a.",
        "_",
        ".-",
        "-",
        "é.",
        "한",
        "\u0301",
        "\u0301\u0316",
        SOFT_HYPHEN,
        "a.é_",
        "\ufdfa",
        "宿",
        "a" + ZERO_WIDTH_SPACE,
    ],
)
def test_looking_for_words_takes_time_in_proportion_to_the_text(unit: str) -> None:
    assert_linear(split_into_words, lambda n: "é" + unit * (n // len(unit)))
