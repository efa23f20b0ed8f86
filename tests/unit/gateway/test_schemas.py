import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flotilla.contracts.errors import ConfigurationError, Invalid
from flotilla.contracts.names import is_valid_id
from gateway.orders.money import format_minor_units, parse_minor_units
from gateway.paging import make_cursor, read_cursor, read_time_cursor
from gateway.schemas.common import ID_PATTERN
from gateway.schemas.governed import ActionBody
from gateway.settings import Settings


@given(st.text(max_size=130) | st.from_regex(r"[A-Za-z0-9._:-]{1,130}", fullmatch=True))
def test_the_api_takes_the_ids_that_the_contracts_take(value: str) -> None:
    # Python's `$` also matches before a last newline; the engine behind the API's patterns does not.
    pattern = ID_PATTERN.replace("$", r"\Z")
    assert bool(re.match(pattern, value)) == is_valid_id(value)


@pytest.mark.parametrize(
    "value", ["a\x00b", {"deep": ["\ud800"]}, {"a\x00": 1}, float("nan"), [float("inf")]], ids=repr
)
def test_what_no_store_can_hold_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        ActionBody.model_validate({"action": "echo", "description": "d", "args": {"text": value}})


@given(st.integers(min_value=1, max_value=10**15 - 1), st.sampled_from(["EUR", "JPY", "KWD"]))
def test_amounts_survive_the_way_through_text(minor: int, currency: str) -> None:
    assert parse_minor_units(format_minor_units(minor, currency), currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [("12.50", "EUR", 1250), ("12.5", "EUR", 1250), ("12", "EUR", 1200), ("7.000", "EUR", 700), ("5", "JPY", 5)],
)
def test_amounts_in_minor_units(amount: str, currency: str, minor: int) -> None:
    assert parse_minor_units(amount, currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("0", "EUR"), ("0.00", "EUR"), ("-1", "EUR"), ("1.001", "EUR"), ("1.5", "JPY"), ("1e3", "EUR"), ("", "EUR"),
     ("٣", "EUR"), ("1,5", "EUR"), ("NaN", "EUR")],
)  # fmt: skip
def test_amounts_that_are_none_are_refused(amount: str, currency: str) -> None:
    with pytest.raises(Invalid):
        parse_minor_units(amount, currency)


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), min_size=2, max_size=2))
def test_cursors_give_back_what_they_were_made_of(position: list[str]) -> None:
    assert read_cursor(make_cursor(*position), 2) == position


@given(st.text(max_size=60))
def test_made_up_cursors_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        read_time_cursor(text)


NEEDED = {"FLOTILLA_POSTGRES_DSN": "postgresql://x", "FLOTILLA_REDIS_URL": "redis://x",
          "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": "x:1", "FLOTILLA_TEMPORAL_ADDRESS": "x:1"}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"FLOTILLA_OIDC_ISSUER": "https://x.example"}, "FLOTILLA_OIDC_AUDIENCE"),
        ({"FLOTILLA_OIDC_ISSUER": "http://x.example", "FLOTILLA_OIDC_AUDIENCE": "a"}, "https"),
        ({"FLOTILLA_OIDC_ALGORITHMS": "HS256"}, "forged"),
        ({"FLOTILLA_OIDC_ALGORITHMS": "none,RS256"}, "forged"),
        ({"FLOTILLA_KEY_CACHE_S": "61"}, "60"),
    ],
)
def test_settings_that_would_let_in_too_many_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], why: str
) -> None:
    from flotilla.config import load_settings

    for name, value in (NEEDED | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=why):
        load_settings(Settings)
