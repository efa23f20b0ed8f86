"""Hypothesis strategies: every text, every JSON value and those that only Python has."""

from typing import Any

from hypothesis import strategies as st

texts = st.text(st.characters() | st.sampled_from('\x00\ud800\udfff\\u"\n\u2028\ufeff'), max_size=12)
"""Lone surrogates and NUL included."""
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e22, 5e-324, 2**63, -(2**63) - 1, 10**400])
    | texts
)


def anything(scalars: st.SearchStrategy[Any] = _scalars) -> st.SearchStrategy[Any]:
    """Values as `json.loads` gives them, with NaN, infinities, long integers, NUL and lone surrogates."""
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    )


objects = st.dictionaries(texts, anything(), max_size=4)
"""JSON objects of them."""
