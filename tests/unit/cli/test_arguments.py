"""Arguments that need reading."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flotilla_cli.arguments import check_timestamp, parse_amount, parse_expiry, parse_json_object, parse_key_values
from flotilla_cli.errors import Misuse


def test_values_of_pairs_may_be_json() -> None:
    pairs = ["text=hello world", "n=3", "on=true", 'list=[1,"a"]', "url=http://a/?x=1", 's="3"', "empty=", "x=NaN"]
    assert parse_key_values(pairs) == {
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
        parse_key_values(pairs)


def test_objects_come_as_text_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"query": "q"}')
    assert parse_json_object('{"query": "q"}') == parse_json_object(f"@{file}") == {"query": "q"}


DEEP = "[" * 100_000
ODD = [
    DEEP,
    '{"a": [' + DEEP + "]}",
    '{"amount": 1, "amount": 2}',
    '{"of": [{"amount": 1, "amount": 2}]}',
    '{"a": NaN}',
    '{"a": [-Infinity]}',
    '{"a": 1e999}',
    '{"a": "\\ud800"}',
    '{"\\u0000": 1}',
    '{"a": ' + "9" * 2000 + "}",
    '{"a": ' + "9" * 5000 + "}",
    "\x00",
    "@\x00",
    "@/",
    "",
]


@pytest.mark.parametrize("text", ["[1]", "{", "@/no/such/file", '"x"', *ODD], ids=lambda text: text[:20])
def test_what_is_no_object_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        parse_json_object(text)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{\x00}\x00", b'{"a": "caf\xe9"}', b"", b"\xef\xbb\xbf", b'\x00{"a": 1}'], ids=repr
)
def test_a_file_that_holds_no_object_is_misuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input.json").write_bytes(content)
    with pytest.raises(Misuse):
        parse_json_object(f"@{tmp_path}/input.json")


def test_a_byte_order_mark_is_no_part_of_an_object(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert parse_json_object(f"@{tmp_path}/input.json") == parse_json_object('\ufeff{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("value", [DEEP, "[NaN]", "1e999", "9" * 5000, '{"a": 1, "a": 2}'], ids=lambda text: text[:20])
def test_a_value_that_programs_read_differently_is_text(value: str) -> None:
    assert parse_key_values([f"a={value}"]) == {"a": value}


@pytest.mark.parametrize(
    "value", ['"\\ud800"', '["\\u0000"]', '{"\\udfff": 1}', "9" * 2000], ids=lambda text: text[:20]
)
def test_a_value_that_no_store_holds_is_misuse_with_its_place(value: str) -> None:
    with pytest.raises(Misuse, match=r"^a[:/]"):
        parse_key_values([f"a={value}"])


@pytest.mark.parametrize(("text", "amount"), [("12.50", "12.50"), ("1e3", "1000"), ("0.01", "0.01")])
def test_amounts_keep_their_digits(text: str, amount: str) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text", ["0", "-1", "abc", "NaN", "inf", "12,50", "sNaN", "1e999999999", "1e-999999999", "1e40", "", "\x00"]
)
def test_what_is_not_an_amount_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        parse_amount(text)


def test_spans_count_from_now() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_expiry("90d", now) == datetime(2026, 4, 1, tzinfo=UTC)
    assert parse_expiry("12h", now) == datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["90", "d", "0d", "-1d", "1y", f"{10**12}d", "9" * 5000 + "w", "3000000d", ""])
def test_what_is_no_span_is_misuse(text: str) -> None:
    with pytest.raises(Misuse):
        parse_expiry(text)


@pytest.mark.parametrize("text", ["2026-05-01T12:00:00Z", "2026-05-01T12:00:00.5+02:00"])
def test_a_time_has_an_offset(text: str) -> None:
    check_timestamp(text)


@pytest.mark.parametrize("text", ["yesterday", "", "2026-05-01", "2026-05-01T12:00:00"])
def test_what_is_not_a_time_is_misuse(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        check_timestamp(text)
    assert "2026-05-01T12:00:00Z" in caught.value.hint
