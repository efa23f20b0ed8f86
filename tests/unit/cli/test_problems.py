"""Problem documents become errors with the exit code that fits."""

from typing import Any

import httpx
import pytest

from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.gateway import error_from_problem


def answer(status: int, document: Any) -> httpx.Response:
    return httpx.Response(status, json=document, headers={"Content-Type": "application/problem+json"})


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (400, Misuse, 2),
        (401, CliError, 1),
        (403, CliError, 1),
        (404, NotFound, 3),
        (409, CliError, 1),
        (413, Misuse, 2),
        (422, Misuse, 2),
        (429, CliError, 1),
        (500, CliError, 1),
        (503, CliError, 1),
    ],
)
def test_the_exit_code_fits_the_status(status: int, kind: type[CliError], exit_code: int) -> None:
    error = error_from_problem(answer(status, {"title": "T", "detail": "what happened"}))
    assert type(error) is kind
    assert error.exit_code == exit_code
    assert str(error) == f"T ({status}): what happened"


def test_each_wrong_field_is_named() -> None:
    errors = [{"pointer": "#/query", "detail": "too short"}, {"pointer": "#/wait_s", "detail": "not a number"}]
    error = error_from_problem(answer(422, {"title": "Unprocessable", "detail": "2 fields", "errors": errors}))
    assert str(error).splitlines()[1:] == ["  #/query: too short", "  #/wait_s: not a number"]


def test_one_wrong_field_is_said_once() -> None:
    errors = [{"pointer": "#/query", "detail": "too long"}]
    error = error_from_problem(
        answer(422, {"title": "T", "detail": "does not fit: #/query: too long", "errors": errors})
    )
    assert str(error) == "T (422): does not fit: #/query: too long"


def test_a_refusal_says_whose_key_would_do() -> None:
    assert "--as bob" not in str(error_from_problem(answer(403, {"title": "Forbidden", "detail": "d"})))
    assert "--as alice, bob or admin" in error_from_problem(answer(403, {"title": "Forbidden", "detail": "d"})).hint


def test_a_bug_of_the_server_is_found_by_its_trace() -> None:
    document = {"title": "Internal Server Error", "detail": "something went wrong", "trace_id": "4bf92f35"}
    assert "4bf92f35" in error_from_problem(answer(500, document)).hint


def test_an_answer_that_is_no_problem_document_is_shown_as_it_is() -> None:
    error = error_from_problem(httpx.Response(502, text="<html>bad \x1b[31mgateway</html>"))
    assert str(error) == r"Bad Gateway (502): <html>bad \u001b[31mgateway</html>"
