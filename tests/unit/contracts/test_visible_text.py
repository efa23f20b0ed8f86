"""What people read hides nothing."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.visible_text import escape_invisible, escape_invisible_in_json

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("acct\x9b2J-1", r"acct\u009b2J-1"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("a\u200bb", r"a\u200bb"),
        ("a\ufeffb", r"a\ufeffb"),
        ("a\u00adb", r"a\u00adb"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("a\x7fb\x00", r"a\u007fb\u0000"),
        ("a\u2028b", r"a\u2028b"),
        ("a\u3164b", r"a\u3164b"),
        ("a\u00a0b", r"a\u00a0b"),
        ("a\r\nb", "a\\u000d\nb"),
        ("\ud800", r"\ud800"),
        ("one\n\ttwo", "one\n\ttwo"),
        (
            "\u0646\u200c\u0645 \U0001f468\u200d\U0001f469 \u2764\ufe0f",
            "\u0646\u200c\u0645 \U0001f468\u200d\U0001f469 \u2764\ufe0f",
        ),
        ("Grüße, 日本語", "Grüße, 日本語"),
    ],
)
def test_what_can_not_be_seen_is_an_escape(text: str, shown: str) -> None:
    assert escape_invisible(text) == shown


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    left = {unicodedata.category(one) for one in escape_invisible(text) if one not in "\t\n\u200c\u200d"}
    assert not left & HIDDEN


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_escaped_json_is_the_same_document(value: object) -> None:
    shown = escape_invisible_in_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert not {unicodedata.category(one) for one in shown} & HIDDEN
