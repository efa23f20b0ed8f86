"""Amounts: decimal text outside, minor units inside. Source: ISO 4217 for the exponents."""

import re

from flotilla.contracts.errors import Invalid

_DEFAULT_EXPONENT = 2
_WHOLE = (
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF",
    "XPF",
)  # fmt: skip
_THOUSANDTHS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
_EXPONENTS = {
    **dict.fromkeys(_WHOLE, 0),
    **dict.fromkeys(_THOUSANDTHS, 3),
}
_AMOUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?")


def parse_minor_units(amount: str, currency: str) -> int:
    """`12.50` EUR as 1250.

    Raises:
        Invalid: not a positive decimal number, or finer than the currency's smallest unit.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise Invalid(f"amount {amount!r}: write a decimal number like 12.50")
    exponent = _EXPONENTS.get(currency, _DEFAULT_EXPONENT)
    fraction = match[2] or ""
    if len(fraction.rstrip("0")) > exponent:
        raise Invalid(f"amount {amount}: {currency} has {exponent} decimal places")
    minor = int(match[1] + fraction[:exponent].ljust(exponent, "0"))
    if minor == 0:
        raise Invalid("amount: it has to be above 0")
    return minor


def format_minor_units(minor: int, currency: str) -> str:
    """1250 EUR as `12.50`."""
    exponent = _EXPONENTS.get(currency, _DEFAULT_EXPONENT)
    digits = str(minor).rjust(exponent + 1, "0")
    return f"{digits[:-exponent]}.{digits[-exponent:]}" if exponent else digits
