import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.knowledge.analysis import MAX_QUERY_WORDS, analyse_passage, analysis_version, query_terms
from flotilla.knowledge.languages import LANGUAGES, check_language, stop_words
from flotilla.knowledge.recognition import detect_language

GERMAN = "Die Versicherung zahlt, wenn der Schaden innerhalb von zwei Wochen gemeldet wird und Belege beiliegen."
FRENCH = "Les documents sont conservés pendant dix ans dans un lieu sûr, et personne ne peut les modifier."
ENGLISH = "The documents are kept for ten years in a safe place, and nobody is allowed to change them."


def _forms(query: str, *languages: str) -> list[tuple[str, ...]]:
    return [term.forms for term in query_terms(query, languages)]


@pytest.mark.parametrize(
    ("text", "language"),
    [(GERMAN, "de"), (FRENCH, "fr"), (ENGLISH, "en"), ("猫は魚を食べる。犬は骨が好きだ。", "ja"), ("12 34", "sv")],
)
def test_a_text_shows_its_language_or_has_the_default(text: str, language: str) -> None:
    assert detect_language(text, "sv") == language


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"FLOTILLA_KNOWLEDGE_LANGUAGE is 'klingon': use one of ar, .* zh"):
        check_language("klingon")


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_language_has_an_analysis(language: str) -> None:
    check_language(language)
    assert analyse_passage("Flotilla 42", language).term_count == 2
    assert analysis_version(language).endswith(language)


@pytest.mark.parametrize(
    ("document", "query", "language"),
    [
        ("Die Schäden wurden gemeldet", "Schaden", "de"),
        ("Les fichiers supprimés", "supprimer un fichier", "fr"),
        ("Los archivos borrados", "borrar el archivo", "es"),
        ("удалённые файлы", "удаленный файл", "ru"),
        ("running queries", "query runs", "en"),
        ("résumé", "resume", "en"),
    ],
)
def test_a_question_has_the_terms_of_the_document(document: str, query: str, language: str) -> None:
    terms = analyse_passage(document, language).counts
    assert all(terms.keys() & set(forms) for forms in _forms(query, language))


def test_a_question_looks_for_its_words_in_every_language_of_the_documents() -> None:
    [forms] = _forms("Katalogen", "en", "de")
    assert analyse_passage("Katalog", "de").counts.keys() <= set(forms)
    assert analyse_passage("katalogen", "en").counts.keys() <= set(forms)


def test_stop_words_are_those_of_the_language_that_is_asked_in() -> None:
    assert _forms("wie melde ich die Katze", "en", "de") == _forms("melde Katze", "en", "de")
    assert len(_forms("why did the die break", "en", "de")) == 2


def test_a_word_that_is_asked_twice_counts_once() -> None:
    assert len(_forms("fish, Fish and FISH", "en")) == 1


def test_a_question_has_an_end() -> None:
    assert len(_forms(" ".join(f"w{n}" for n in range(50_000)), "en")) == MAX_QUERY_WORDS


def test_stop_words_are_listed_for_the_languages_that_have_them() -> None:
    assert {"the", "how"} <= stop_words("en")
    assert stop_words("zh") == frozenset()
