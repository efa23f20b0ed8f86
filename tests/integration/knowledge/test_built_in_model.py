"""The built-in embedding model: what it makes of texts does not depend on what they are embedded with."""

import math

import pytest

from flotilla.knowledge.embedders import LocalEmbedder
from flotilla_devstack.embedding_model import ensure_embedding_model

MONEY = "Customers get their money back within nine days."
REFUND = "A refund is paid to the buyer in a week and a half."
WEATHER = "It will rain on the hills tomorrow."


@pytest.fixture(scope="module")
def model() -> LocalEmbedder:
    return LocalEmbedder(ensure_embedding_model())


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_of_like_meaning_are_near_in_other_words(model: LocalEmbedder) -> None:
    money, refund, weather = await model.embed([MONEY, REFUND, WEATHER])
    assert cosine(money, refund) > 0.4
    assert cosine(money, weather) < 0.2
    assert all(math.isclose(cosine(one, one), 1.0, abs_tol=1e-6) for one in (money, refund, weather))


async def test_a_text_has_the_same_vector_alone_and_beside_a_longer_one(model: LocalEmbedder) -> None:
    alone = (await model.embed([MONEY]))[0]
    beside = (await model.embed([WEATHER * 40, MONEY]))[1]
    assert cosine(alone, beside) > 0.9999
