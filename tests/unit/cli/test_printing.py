"""What people and programs see of an answer."""

from datetime import UTC, datetime, timedelta

import pytest

from flotilla_cli.printing import (
    TableColumn,
    age,
    escape_for_terminal,
    format_duration,
    format_json_value,
    print_fields,
    print_json,
    print_table,
    shorten_to_line,
)


def test_text_from_elsewhere_cannot_act_on_the_terminal() -> None:
    assert escape_for_terminal("a\x1b]0;title\x07b\x1b[2Jc\x9b31md") == r"a\u001b]0;title\u0007b\u001b[2Jc\u009b31md"
    assert escape_for_terminal("line\n\tindented") == "line\n\tindented"


def test_markup_in_a_value_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "[red]x[/red] [/nonsense]"}], [TableColumn("name", "name")], "none")
    assert "[red]x[/red] [/nonsense]" in capsys.readouterr().out


def test_a_listing_without_rows_says_what_to_do_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], [TableColumn("name", "name")], "None yet; make one.")
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("", "None yet; make one.\n")


def test_long_values_of_a_listing_are_whole_when_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    value = "x" * 120
    print_table([{"id": value}], [TableColumn("id", "id")], "none")
    assert value in capsys.readouterr().out


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"status": "pending", "result": None, "error": "", "count": 0, "on": False})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["status", "pending"], ["count", "0"], ["on", "no"]]


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "ü", "n": 1})
    assert capsys.readouterr().out == '{\n  "text": "ü",\n  "n": 1\n}\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (0.123456, "0.1235"), (["a", 1], '["a", 1]'), ({"ü": 1}, '{"ü": 1}'), (12, "12")],
)
def test_values_as_people_read_them(value: object, text: str) -> None:
    assert format_json_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3s"), (119, "119s"), (120, "2m"), (7200, "2h"), (86_400, "24h"), (259_200, "3d")]
)
def test_spans_in_their_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_ages_look_back_and_ahead() -> None:
    now = datetime.now(UTC)
    assert age((now - timedelta(hours=3)).isoformat()) == "3h ago"
    assert age((now + timedelta(days=2, hours=1)).isoformat()) == "in 2d"
    assert age(None) == "-"


def test_shortened_text_is_one_line() -> None:
    assert shorten_to_line("one\n two  three", 20) == "one two three"
    assert shorten_to_line("abcdefgh", 5) == "abcd…"
