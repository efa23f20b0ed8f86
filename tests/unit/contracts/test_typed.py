"""The author's types as JSON, and back."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from flotilla.contracts.typed import Codec


@dataclass
class Inner:
    """With defaults."""

    name: str
    remark: str = ""
    at: datetime | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Outer:
    """With objects inside."""

    one: Inner
    many: list[Inner]
    by_name: dict[str, Inner]


def test_what_was_decoded_is_encoded_with_the_fields_that_have_their_defaults() -> None:
    codec = Codec(Outer, "the test")
    at = datetime(2026, 1, 31, tzinfo=UTC)
    decoded = codec.decode({"one": {"name": "a"}, "many": [{"name": "b"}], "by_name": {"c": {"name": "c"}}})
    whole: dict[str, object] = {"remark": "", "at": None, "tags": []}
    assert codec.encode(decoded) == {
        "one": {"name": "a", **whole},
        "many": [{"name": "b", **whole}],
        "by_name": {"c": {"name": "c", **whole}},
    }
    decoded.one.at = at
    assert codec.decode(codec.encode(decoded)).one.at == at
