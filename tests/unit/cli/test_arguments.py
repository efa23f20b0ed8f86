"""Arguments that need reading."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flotilla_cli.arguments import check_time, read_amount, read_expiry, read_object, read_pairs
from flotilla_cli.errors import Misuse


def test_values_of_pairs_may_be_json() -> None:
    pairs = ["text=hello world", "n=3", "on=true", 'list=[1,"a"]', "url=http://a/?x=1", 's="3"', "empty=", "x=NaN"]
    assert read_pairs(pairs) == {
        "text": "hello world",
        "n": 3,
        "on": True,
        "list": [1, "a"],
        "url": "http://a/?x=1",
        "s": "3",
        "empty": "",
        "x": "NaN",
    }


@pytest.mark.parametrize("pairs", [["novalue"], ["=x"], ["a=1", "a=2"]])
def test_pairs_that_are_none_are_misuse(pairs: list[str]) -> None:
    with pytest.raises(Misuse):
        read_pairs(pairs)


def test_objects_come_as_text_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"query": "q"}')
    assert read_object('{"query": "q"}') == read_object(f"@{file}") == {"query": "q"}


@pytest.mark.parametrize("text", ["[1]", "{", "@/no/such/file", '"x"'])
def test_what_is_no_object_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        read_object(text)


@pytest.mark.parametrize(("text", "amount"), [("12.50", "12.50"), ("1e3", "1000"), ("0.01", "0.01")])
def test_amounts_keep_their_digits(text: str, amount: str) -> None:
    assert read_amount(text) == amount


@pytest.mark.parametrize("text", ["0", "-1", "abc", "NaN", "inf", "12,50"])
def test_what_is_not_an_amount_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        read_amount(text)


def test_spans_count_from_now() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert read_expiry("90d", now) == datetime(2026, 4, 1, tzinfo=UTC)
    assert read_expiry("12h", now) == datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["90", "d", "0d", "-1d", "1y"])
def test_what_is_no_span_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        read_expiry(text)


@pytest.mark.parametrize("text", ["2026-05-01T12:00:00Z", "2026-05-01T12:00:00.5+02:00"])
def test_a_time_has_an_offset(text: str) -> None:
    check_time(text)


@pytest.mark.parametrize("text", ["yesterday", "", "2026-05-01", "2026-05-01T12:00:00"])
def test_what_is_not_a_time_is_misuse(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        check_time(text)
    assert "2026-05-01T12:00:00Z" in caught.value.hint
