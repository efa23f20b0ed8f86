"""The price file: what it says, and what is wrong with one that can't be used."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm.prices import PriceTable, read_prices

GOOD = """
currency = "EUR"

[[prices]]
model = "small"
valid_from = 2026-01-01
input = 0.25
cached_input = 0.025
output = 2

[[prices]]
model = "small"
valid_from = 2026-06-01
input = 0.30
output = 2.40
"""


def table(tmp_path: Path, text: str = GOOD) -> PriceTable:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    return read_prices(file)


def test_the_price_of_a_day_is_the_last_that_is_valid_by_then(tmp_path: Path) -> None:
    prices = table(tmp_path)
    found = [prices.price_on_day("small", date(2026, month, 1)) for month in (1, 5, 6, 12)]
    assert [price.output for price in found if price] == [Decimal(2), Decimal(2), Decimal("2.40"), Decimal("2.40")]
    assert prices.price_on_day("small", date(2025, 12, 31)) is None
    assert prices.price_on_day("large", date(2026, 6, 1)) is None


def test_cached_tokens_have_a_price_of_their_own_and_a_cost_is_rounded_up(tmp_path: Path) -> None:
    price = table(tmp_path).price_on_day("small", date(2026, 1, 1))
    assert price is not None
    assert (
        price.cost_in_nanos(TokenUsage(input_tokens=1000, output_tokens=100), 800) == 200 * 250 + 800 * 25 + 100 * 2000
    )
    tiny = table(tmp_path, GOOD.replace("0.25", "0.0000001")).price_on_day("small", date(2026, 1, 1))
    assert tiny is not None
    assert tiny.cost_in_nanos(TokenUsage(input_tokens=1)) == 1


def test_without_a_price_for_cached_tokens_they_cost_what_others_do(tmp_path: Path) -> None:
    price = table(tmp_path).price_on_day("small", date(2026, 6, 1))
    assert price is not None
    assert price.cost_in_nanos(TokenUsage(input_tokens=10), 10) == 3000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", "'currency' is missing"),
        (GOOD.replace("EUR", "euro"), "three capital letters"),
        (GOOD.replace("input = 0.25\n", ""), "'input' is missing"),
        (GOOD.replace("0.25", "-1"), "entry 1: input is an amount"),
        (GOOD.replace("0.25", "nan"), "entry 1: input is an amount"),
        (GOOD.replace("0.25", "true"), "entry 1: input is an amount"),
        (GOOD.replace("2026-06-01", "2026-01-01"), "entry 2: small has a price from 2026-01-01 already"),
        (GOOD.replace("2026-06-01", '"2026-06-01"'), "entry 2: valid_from is a day"),
        (GOOD.replace("output = 2.40", "output = 2.40\nouptut = 1"), "entry 2: unknown ouptut"),
        (GOOD + "[", "can't be read"),
    ],
)
def test_a_file_that_is_no_price_table_is_named_with_what_is_wrong(tmp_path: Path, wrong: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        table(tmp_path, wrong)
    assert "prices.toml" in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml can't be read"):
        read_prices(tmp_path / "none.toml")
