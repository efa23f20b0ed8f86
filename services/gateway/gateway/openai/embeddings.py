"""Embeddings, by the model that the fleet's searches by meaning use."""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, Tag

from flotilla.contracts.errors import Invalid, NotFound
from flotilla.knowledge.embedding import Embedder
from gateway.auth.principal import Principal
from gateway.embedding_turns import EmbeddingQueue
from gateway.openai.messages import BY_FORM
from gateway.schemas.common import STORABLE

MAX_TEXTS = 256
MAX_CHARACTERS = 32_000
"""Of one text."""
MAX_TOTAL_CHARACTERS = 200_000
_CHARACTERS_PER_TOKEN = 4


MODEL = "flotilla/embedding"
_OneText: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS), STORABLE]


class EmbeddingsRequest(BaseModel):
    """`POST /embeddings`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": MODEL, "input": "Who may approve a refund?"}]},
    )

    model: Annotated[str, StringConstraints(min_length=1, max_length=200), STORABLE]
    input: Annotated[
        Annotated[_OneText, Tag("text")]
        | Annotated[list[_OneText], Field(min_length=1, max_length=MAX_TEXTS), Tag("parts")],
        BY_FORM,
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[str, StringConstraints(max_length=256), STORABLE] | None = None

    @property
    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embeddings(BaseModel):
    """The vectors, in the order of the texts."""

    object: str = "list"
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]


async def embeddings_of(
    turns: EmbeddingQueue, embedder: Embedder | None, caller: Principal, request: EmbeddingsRequest
) -> Embeddings:
    """Return the vectors that are asked for.

    Raises:
        NotFound: the fleet has no embedding model, or none of that name.
        Invalid: there is too much text, or the model has other dimensions.
    """
    if embedder is None:
        raise NotFound("this fleet has no embedding model: its operator sets FLOTILLA_EMBEDDING_FILE or _URL")
    if request.model not in (MODEL, embedder.name):
        raise NotFound(f"no embedding model {request.model[:200]}: it is {MODEL}")
    texts = request.texts
    total = sum(map(len, texts))
    if total > MAX_TOTAL_CHARACTERS:
        raise Invalid(f"input has {total} characters, {MAX_TOTAL_CHARACTERS} are allowed at once")
    # One text shows the model's dimensions, so that others are not embedded for nothing.
    vectors = await turns.embed(embedder, caller, texts if request.dimensions is None else texts[:1])
    size = len(vectors[0])
    if request.dimensions not in (None, size):
        raise Invalid(f"dimensions: the model has {size}, and its vectors can't be cut")
    vectors += await turns.embed(embedder, caller, texts[len(vectors) :])
    encoded = [_encoded(vector) if request.encoding_format == "base64" else vector for vector in vectors]
    tokens = sum(-(-len(text) // _CHARACTERS_PER_TOKEN) for text in texts)
    return Embeddings(
        data=[{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(encoded)],
        model=MODEL,
        usage={"prompt_tokens": tokens, "total_tokens": tokens},
    )


def _encoded(vector: Sequence[float]) -> str:
    """The vector as little-endian floats of 32 bits, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
