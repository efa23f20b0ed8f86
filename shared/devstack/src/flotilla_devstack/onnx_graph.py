"""Writes a graph in ONNX's form, as far as the multilingual model needs it: the messages of onnx.proto3, by hand.

The package `onnx` would bring 40 MB to write these few fields.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

MICROSOFT = "com.microsoft"
IR_VERSION = 9
OPSETS = {"": 18, MICROSOFT: 1}
FLOAT, INT64 = 1, 7
_TYPES = {"float32": FLOAT, "uint8": 2, "int8": 3, "int64": INT64, "float16": 10}
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _STRING_ATTRIBUTE = 1, 2, 3
Attribute: TypeAlias = float | int | str


@dataclass
class Graph:
    """Nodes in the order in which they run, and constants."""

    nodes: list[bytes] = field(default_factory=list)
    constants: list[bytes] = field(default_factory=list)

    def constant(self, name: str, values: "Array") -> str:
        """Add a constant, and return its name."""
        shape = b"".join(_number(1, size) for size in values.shape)
        kind = _number(2, _TYPES[values.dtype.name])
        self.constants.append(shape + kind + _bytes(8, name.encode()) + _bytes(9, values.tobytes()))
        return name

    def apply(self, kind: str, *inputs: str, domain: str = "", output: str = "", **attributes: Attribute) -> str:
        """Add a node, and return the name of its output: `output`, or one of its own."""
        output = output or f"{kind.lower()}.{len(self.nodes)}"
        named = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
        asked = b"".join(_bytes(5, _attribute(name, value)) for name, value in sorted(attributes.items()))
        self.nodes.append(named + _bytes(4, kind.encode()) + asked + _bytes(7, domain.encode()))
        return output

    def model(self, name: str, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
        """Return the whole model."""
        graph = b"".join(_bytes(1, node) for node in self.nodes) + _bytes(2, name.encode())
        graph += b"".join(_bytes(5, constant) for constant in self.constants)
        graph += b"".join(_bytes(11, one) for one in inputs) + b"".join(_bytes(12, one) for one in outputs)
        sets = b"".join(_bytes(8, _bytes(1, domain.encode()) + _number(2, n)) for domain, n in OPSETS.items())
        return _number(1, IR_VERSION) + _bytes(7, graph) + sets


def tensor_type(name: str, kind: int, shape: Sequence[str | int]) -> bytes:
    """Return the declaration of an input or output; sizes that vary have names."""
    sizes = [_bytes(2, one.encode()) if isinstance(one, str) else _number(1, one) for one in shape]
    tensor = _number(1, kind) + _bytes(2, b"".join(_bytes(1, size) for size in sizes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, str):
        return _bytes(1, name.encode()) + _bytes(4, value.encode()) + _number(20, _STRING_ATTRIBUTE)
    if isinstance(value, int):
        return _bytes(1, name.encode()) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    single = _varint(2 << 3 | 5) + struct.pack("<f", value)
    return _bytes(1, name.encode()) + single + _number(20, _FLOAT_ATTRIBUTE)


def _number(place: int, value: int) -> bytes:
    return _varint(place << 3) + _varint(value & (2**64 - 1))


def _bytes(place: int, value: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:  # noqa: PLR2004 - seven bits to a byte
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
