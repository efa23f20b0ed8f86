import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flotilla.agent.recording import storable

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\\u0\n"), max_size=20)
values = st.recursive(texts | st.integers(-5, 5) | st.none(), lambda v: st.lists(v) | st.dictionaries(texts, v))


@given(st.dictionaries(texts, values))
def test_storable_data_has_no_nul_and_is_else_the_same(value: dict[str, Any]) -> None:
    kept = storable(value)
    assert "\\u0000" not in json.dumps(kept).replace("\\\\", "")
    if "\x00" not in json.dumps(value, ensure_ascii=False) and "\\u0000" not in json.dumps(value):
        assert kept == value
