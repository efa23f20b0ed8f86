"""Which columns of the database are encrypted, and what readers get where that can't be read any more.

A column of JSON is encrypted whole, or by members where statements need the others. What is stored stays valid for the
column's type: text, or JSON in which strings take the place of what is hidden. Rows from before encryption was on are
read as they are.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import msgspec

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.encryption.cipher import ERASED, SEALED_PREFIX, UNREADABLE, WHY_ERASED, Unreadable, is_sealed
from flotilla.encryption.keyring import Cipher

WRAPPED = "flotilla:sealed"
"""The only member of an object that holds another one encrypted."""
_WHY_ERASED = to_json(WHY_ERASED)
_MARKS = (ERASED.encode(), UNREADABLE.encode())
_BEGINNINGS = (SEALED_PREFIX.encode(), ERASED.encode())
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Row(Protocol):
    """A row as the database's driver returns it, or as a dict."""

    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A column of text, encrypted whole."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of an array of text, each encrypted for itself."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A column of bytes, encrypted whole. Readers get the mark alone without the key."""


@dataclass(frozen=True, slots=True)
class Json:
    """A column of JSON, encrypted whole."""

    stand_in: JsonValue = ERASED
    """What readers get without the key: a value of the same form, with `[erased]` where a text can be."""
    of: str = ""
    """What the column shows, where a statement selects another one or a member of it under this name."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A column of JSON objects, encrypted whole, where an object has to stay one: `wrapped` makes it."""

    stand_in: JsonValue


@dataclass(frozen=True, slots=True)
class Members:
    """A column of JSON objects of which some members are encrypted, each for itself. Statements see the others."""

    stand_ins: Mapping[str, JsonValue]
    """By name, or by names joined with dots, what an erased member reads as."""
    of: str = ""
    """As in `Json`."""


@dataclass(frozen=True, slots=True)
class Items:
    """A column of arrays of JSON objects, of which each has some members encrypted."""

    names: tuple[str, ...]


Column: TypeAlias = Text | Texts | Bytes | Json | Wrapped | Members | Items


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table with encrypted columns. Its rows name their session."""

    name: str
    key: str
    """The column that names a row within its tenant."""
    columns: Mapping[str, Column] = field(default_factory=lambda: MappingProxyType({}))

    def place(self, column: str, key: str) -> str:
        """The place of a value, for its ciphertext."""
        kind = self.columns[column]
        shown = kind.of if isinstance(kind, Json | Members) and kind.of else column
        owner, _, member = shown.partition(".")
        return f"{self.name}.{owner}/{key}" + (f"/{member}" if member else "")


def sealed_columns(cipher: Cipher | None, table: SealedTable, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row's columns as they are stored, JSON as text; as they are without a cipher."""
    if cipher is None:
        return dict(values)
    return {
        name: None if value is None else _sealed(cipher, table.columns[name], table.place(name, key), value)
        for name, value in values.items()
    }


def holds_sealed_columns(table: SealedTable, row: Row) -> bool:
    """Whether a row, or what a statement selected of it, holds something that is encrypted or erased."""
    return any(_may_hold_sealed(row[name]) for name in table.columns.keys() & set(row.keys()))


def opened_columns(cipher: Cipher | None, table: SealedTable, row: Row) -> dict[str, Any]:
    """The row with its columns as they were written, or what they read as once they are erased or unreadable."""
    opened = dict(row)
    for name, column in table.columns.items():
        if name in opened and _may_hold_sealed(opened[name]):
            opened[name] = _opened(cipher, column, table.place(name, str(row[table.key])), opened[name])
    return opened


def _sealed(cipher: Cipher, column: Column, place: str, value: Any) -> Any:
    sealed: Any
    match column:
        case Text():
            sealed = seal(cipher, to_json(value), place)
        case Texts():
            sealed = [seal(cipher, to_json(text), f"{place}/{number}") for number, text in enumerate(value)]
        case Bytes():
            sealed = seal(cipher, to_json(b64encode(value).decode()), place).encode()
        case _:
            sealed = to_json(_sealed_json(cipher, column, place, value)).decode()
    return sealed


def _sealed_json(cipher: Cipher, column: Json | Wrapped | Members | Items, place: str, value: str) -> Any:
    match column:
        case Json():
            return seal(cipher, value.encode(), place)
        case Wrapped():
            return {WRAPPED: seal(cipher, value.encode(), place)}
        case Members(stand_ins):
            return _with_sealed_members(cipher, from_json(value, dict), tuple(stand_ins), place)
        case Items(names):
            items = from_json(value, list)
            return [_with_sealed_members(cipher, item, names, f"{place}/{n}") for n, item in enumerate(items)]


def _opened(cipher: Cipher | None, column: Column, place: str, stored: Any) -> Any:
    opened: Any
    match column:
        case Text():
            opened = str(unseal(cipher, stored, place))
        case Texts():
            opened = [unseal(cipher, text, f"{place}/{number}") for number, text in enumerate(stored)]
        case Bytes():
            text = unseal(cipher, stored.decode(), place)
            opened = b64decode(text) if is_readable(text) else text.encode()
        case _:
            opened = to_json(_opened_json(cipher, column, place, stored)).decode()
    return opened


def _opened_json(cipher: Cipher | None, column: Json | Wrapped | Members | Items, place: str, stored: str) -> Any:
    match column:
        case Json(stand_in):
            return unseal(cipher, from_json(stored, object), place, stand_in)
        case Wrapped(stand_in):
            return unwrapped(cipher, from_json(stored, dict), place, stand_in)
        case Members(stand_ins):
            return _with_opened_members(cipher, from_json(stored, dict), stand_ins, place)
        case Items(names):
            marks = dict.fromkeys(names, ERASED)
            items = from_json(stored, list)
            return [_with_opened_members(cipher, item, marks, f"{place}/{n}") for n, item in enumerate(items)]


def _with_sealed_members(cipher: Cipher, found: dict[str, Any], names: tuple[str, ...], place: str) -> dict[str, Any]:
    for name in names:
        holder, member = _holder(found, name)
        if holder is not None and holder.get(member) not in _NOTHING:
            holder[member] = seal(cipher, to_json(holder[member]), f"{place}/{name}")
    return found


def _with_opened_members(
    cipher: Cipher | None, found: dict[str, Any], stand_ins: Mapping[str, JsonValue], place: str
) -> dict[str, Any]:
    for name, stand_in in stand_ins.items():
        holder, member = _holder(found, name)
        if holder is not None and member in holder:
            holder[member] = unseal(cipher, holder[member], f"{place}/{name}", stand_in)
    return found


def seal(cipher: Cipher, value: bytes, place: str) -> str:
    """Encrypt JSON for its place. A session whose key was destroyed keeps nothing but `WHY_ERASED`: `[erased]` is
    stored."""
    if cipher.key is None:
        return WHY_ERASED if value == _WHY_ERASED else ERASED
    return cipher.key.seal_text(value, place)


def unseal(cipher: Cipher | None, stored: Any, place: str, stand_in: JsonValue = ERASED) -> Any:
    """The value that `seal` encrypted for this place, or its stand-in: with `[erased]` where the key was destroyed,
    with `[unreadable]` where the ciphertext was changed or moved, or this process has no key. Anything else as it
    is."""
    if stored == ERASED:
        return stand_in
    if not is_sealed(stored):
        return stored
    if cipher is None or cipher.key is None:
        return _marked(stand_in, UNREADABLE) if cipher is None else stand_in
    try:
        return msgspec.json.decode(cipher.key.open_text(stored, place))
    except (Unreadable, msgspec.MsgspecError):
        return _marked(stand_in, UNREADABLE)


def wrapped(cipher: Cipher, value: JsonValue, place: str) -> JsonObject:
    """Encrypt a value as an object with one member."""
    return {WRAPPED: seal(cipher, to_json(value), place)}


def is_wrapped(value: object) -> bool:
    """Whether `value` is what `wrapped` makes: anyone can send an object with that member."""
    if not isinstance(value, Mapping) or value.keys() != {WRAPPED}:
        return False
    return value[WRAPPED] == ERASED or is_sealed(value[WRAPPED])


def unwrapped(cipher: Cipher | None, value: JsonObject, place: str, stand_in: JsonValue) -> Any:
    """What `wrapped` encrypted for this place, or its stand-in; anything else as it is."""
    return unseal(cipher, value[WRAPPED], place, stand_in) if is_wrapped(value) else value


def is_readable(value: object) -> bool:
    """Whether `value`, opened, is what was written: not the mark of an erased or unreadable one."""
    return value not in (ERASED, UNREADABLE, *_MARKS)


def _may_hold_sealed(stored: object) -> bool:
    match stored:
        case str():
            return SEALED_PREFIX in stored or ERASED in stored
        case bytes():
            return stored.startswith(_BEGINNINGS)
        case list():
            return any(_may_hold_sealed(text) for text in stored)
        case _:
            return False


def _holder(found: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """The object that holds the member of this dotted name, and its own name; None where there is no such object."""
    *way, member = name.split(".")
    holder: Any = found
    for step in way:
        holder = holder.get(step)
        if not isinstance(holder, dict):
            return None, member
    return holder, member


def _marked(value: JsonValue, mark: str) -> Any:
    """The stand-in with another mark."""
    match value:
        case str():
            return mark if value == ERASED else value
        case list():
            return [_marked(item, mark) for item in value]
        case dict():
            return {name: _marked(item, mark) for name, item in value.items()}
        case _:
            return value
