"""Which questions are follow-ups, and what is searched for instead."""

import pytest

from flotilla.answers.followups import searchable_question
from flotilla.contracts.tasks import Turn

ASKED = "How long are refunds kept in the archive?"


def after(*questions: str) -> list[Turn]:
    return [Turn(query=question, answer="So long.") for question in questions]


@pytest.mark.parametrize(
    "question",
    [
        "And in version 14?",
        "What about invoices from abroad?",
        "Who may delete them?",
        "Why?",
        "In Spain?",
        "Is it printed on paper?",
        "Where are they kept, and by whom?",
    ],
)
def test_a_follow_up_is_asked_with_the_question_before_it(question: str) -> None:
    assert searchable_question(question, after("Who works here on weekends?", ASKED)) == f"{ASKED} {question}"


@pytest.mark.parametrize(
    ("asked", "question"),
    [
        ("Wie lange werden Erstattungen im Archiv aufbewahrt?", "Und wie lange in Spanien?"),
        ("Wie lange werden Erstattungen im Archiv aufbewahrt?", "Wer darf sie löschen?"),
        ("Wie lange werden Rechnungen im Archiv aufbewahrt?", "Gilt das auch dafür?"),
        ("Combien de temps conserve-t-on les remboursements ?", "Et pour les factures étrangères ?"),
        ("Combien de temps conserve-t-on les remboursements ?", "Qui peut supprimer cela ?"),
        ("¿Cuánto tiempo se guardan los reembolsos en el archivo?", "¿Y en España con facturas?"),
    ],
)
def test_so_it_is_in_other_languages(asked: str, question: str) -> None:
    assert searchable_question(question, after(asked)) == f"{asked} {question}"


@pytest.mark.parametrize(
    "question",
    [
        "How do I apply for parental leave?",
        "How do I put unfinished changes aside and get them back?",
        "Is there a canteen in the Berlin office?",
        "Können Sie mir die Regeln für Dienstreisen zeigen?",
        "Y a-t-il une cantine dans le bureau de Lyon ?",
    ],
)
def test_a_complete_question_searches_as_it_is(question: str) -> None:
    assert searchable_question(question, after(ASKED)) == question


def test_a_follow_up_of_a_follow_up_goes_back_to_the_complete_question() -> None:
    history = after(ASKED, "And invoices?", "Who may delete them?")
    assert searchable_question("And in Spain?", history) == f"{ASKED} And in Spain?"


def test_without_history_nothing_is_carried_over() -> None:
    assert searchable_question("And in Spain?", []) == "And in Spain?"


def test_of_an_endless_question_its_beginning_is_carried_over() -> None:
    assert len(searchable_question("And in Spain?", after("refunds archive " * 10_000))) < 1100
