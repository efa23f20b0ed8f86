"""A ciphertext opens with its key, at its place, unchanged; else never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.encryption import DataKey, Unreadable, is_sealed, opened_value, sealed_value
from flotilla.encryption.cipher import bound_to
from flotilla.encryption.keyring import Cipher

KEY = bytes(range(32))
names = st.lists(st.text(max_size=5), max_size=4)


@given(st.binary(max_size=100), st.text(max_size=10))
def test_what_was_sealed_opens_at_its_place(value: bytes, place: str) -> None:
    key = DataKey(KEY, "acme", "s")
    assert key.open(key.seal(value, place), place) == value
    assert key.open_text(key.seal_text(value, place), place) == value


@pytest.mark.parametrize(
    ("context", "place"),
    [
        (("acme", "other"), "p"),
        (("other", "s"), "p"),
        (("acme", "s"), "q"),
        (("acmes",), "p"),
        (("acme", "s", "p"), ""),
    ],
)
def test_a_ciphertext_cant_be_moved(context: tuple[str, ...], place: str) -> None:
    sealed = DataKey(KEY, "acme", "s").seal(b"secret", "p")
    with pytest.raises(Unreadable, match="changed or moved"):
        DataKey(KEY, *context).open(sealed, place)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_changed_bit_is_accepted(at: int, bit: int) -> None:
    key = DataKey(KEY)
    sealed = bytearray(key.seal(b"secret", "p"))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(Unreadable):
        key.open(bytes(sealed), "p")


@pytest.mark.parametrize(
    "text", ["flotilla:sealed:1:", "flotilla:sealed:1:####", "flotilla:sealed:1:AAAA", "ß", "\ud800"]
)
def test_what_is_no_ciphertext_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        DataKey(KEY).open_text(text, "p")


@given(names, names)
def test_two_lists_of_names_never_bind_to_the_same(one: list[str], other: list[str]) -> None:
    assert (bound_to(*one) == bound_to(*other)) == (one == other)


def test_the_same_value_is_never_the_same_ciphertext() -> None:
    assert DataKey(KEY).seal(b"secret", "p") != DataKey(KEY).seal(b"secret", "p")


def test_a_column_holds_one_string_and_shows_the_value_again() -> None:
    cipher = Cipher("k", DataKey(KEY, "acme", "s"))
    stored = sealed_value(cipher, {"answer": "42"}, "runs.result/r")
    assert is_sealed(stored)
    assert opened_value(cipher, stored, "runs.result/r") == {"answer": "42"}
    assert opened_value(cipher, stored, "runs.result/other") == "[unreadable]"
    assert opened_value(None, stored, "runs.result/r") == "[unreadable]"
    assert opened_value(Cipher("k", None), stored, "runs.result/r") == "[erased]"


def test_a_column_without_a_key_stays_clear_and_an_erased_one_keeps_nothing() -> None:
    assert sealed_value(None, "words", "p") == "words"
    assert opened_value(None, "words", "p") == "words"
    assert sealed_value(Cipher("k", None), "words", "p") == "[erased]"
    assert sealed_value(Cipher("k", DataKey(KEY)), None, "p") is None
