"""What models cost: a file (TOML) of prices per million tokens, each valid from a day on.

    currency = "EUR"

    [[prices]]
    model = "gpt-5-mini"
    valid_from = 2026-01-01
    input = 0.25
    cached_input = 0.025     # left out: as input
    output = 2.00

Amounts are whole billionths of the currency, so that sums are exact; a call's cost is rounded up.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.tasks import TokenUsage

NANOS = 10**9
"""Of one unit of the currency."""
_PER_TOKENS = 10**6
_MOST = Decimal(10**6)
_CURRENCY_LETTERS = 3
_FIELDS = frozenset(("model", "valid_from", "input", "cached_input", "output"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """Per million tokens, in the table's currency."""

    valid_from: date
    input: Decimal
    cached_input: Decimal
    output: Decimal

    def cost_in_nanos(self, usage: TokenUsage, cached_input_tokens: int = 0) -> int:
        """What so many tokens cost."""
        cached = min(cached_input_tokens, usage.input_tokens)
        units = self.input * (usage.input_tokens - cached) + self.cached_input * cached
        units += self.output * usage.output_tokens
        return math.ceil(units * NANOS / _PER_TOKENS)

    @property
    def highest_input_price(self) -> Decimal:
        """The price of an input token of which nobody knows whether it is in a cache."""
        return max(self.input, self.cached_input)


class PriceTable:
    """The prices of models, in one currency."""

    def __init__(self, currency: str, prices: Mapping[str, list[TokenPrice]]) -> None:
        self.currency = currency
        self._prices = {
            model: sorted(found, key=lambda price: price.valid_from, reverse=True) for model, found in prices.items()
        }

    def price_on_day(self, model: str, on: date) -> TokenPrice | None:
        """The price that is valid on a day; None if there is none yet."""
        return next((price for price in self._prices.get(model, ()) if price.valid_from <= on), None)


def read_prices(file: Path) -> PriceTable:
    """Return the table in `file`.

    Raises:
        ConfigurationError: it can't be read, or is not such a table; the message names the entry.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"FLOTILLA_LLM_PRICES: {file} can't be read: {error}") from error
    try:
        return _table(document)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigurationError(f"FLOTILLA_LLM_PRICES: {file}: {reason}") from error


def _table(document: dict[str, Any]) -> PriceTable:
    currency = document["currency"]
    if not isinstance(currency, str) or len(currency) != _CURRENCY_LETTERS or not currency.isupper():
        raise ValueError(f'currency is three capital letters, such as "EUR", not {currency!r}')
    prices: dict[str, list[TokenPrice]] = {}
    for number, entry in enumerate(document["prices"], 1):
        price = _price(entry, f"prices, entry {number}")
        known = prices.setdefault(str(entry["model"]), [])
        if any(other.valid_from == price.valid_from for other in known):
            raise ValueError(f"prices, entry {number}: {entry['model']} has a price from {price.valid_from} already")
        known.append(price)
    return PriceTable(currency, prices)


def _price(entry: dict[str, Any], where: str) -> TokenPrice:
    if unknown := entry.keys() - _FIELDS:
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(_FIELDS))}")
    valid_from = entry["valid_from"]
    if not isinstance(valid_from, date) or isinstance(valid_from, datetime):
        raise TypeError(f"{where}: valid_from is a day, such as 2026-01-01")
    given = {"cached_input": entry.get("cached_input", entry["input"]), "output": entry["output"]}
    amounts = {name: _amount(value, f"{where}: {name}") for name, value in {"input": entry["input"], **given}.items()}
    return TokenPrice(valid_from=valid_from, **amounts)


def _amount(value: object, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not _is_amount(Decimal(value)):
        raise ValueError(f"{where} is an amount per million tokens, from 0 to {_MOST}")
    return Decimal(value)


def _is_amount(value: Decimal) -> bool:
    return value.is_finite() and 0 <= value <= _MOST
