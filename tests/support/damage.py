"""Single changes to a file of JSON lines, drawn from a seeded generator."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

SPELLINGS: tuple[tuple[bytes, bytes], ...] = (
    (b":", b": "),
    (b",", b", "),
    (b"{", b"{ "),
    (b"}", b" }"),
    (b'"kind"', b'"\\u006bind"'),
    (b"a", b"\\u0061"),
    (b"/", b"\\/"),
    (b"\n", b"\r\n"),
    (b"\n", b" \n"),
    (b"\n", b"\n\n"),
    (b"null", b"NaN"),
    (b"=", b""),
    (b"+", b"-"),
    (b'"', b"'"),
    (b"}", b",}"),
    (b'{"kind":"event",', b'{"kind":"event","kind":"event",'),
    (b'"seq":', b'"seq":0,"seq":'),
    (b'"session":', b'"session":"other","session":'),
    (b'":1', b'":1.0'),
    (b'":1', b'":1e0'),
    (b'":1', b'":01'),
    (b'":1', b'":+1'),
    (b'":1', b'":true'),
    (b'"hash":"', b'"hash":" '),
)
"""What a lenient reader of JSON takes for the same, or nearly."""


def damage(original: bytes, random: Random) -> bytes:
    """The file with one change; never the same bytes."""
    while True:
        changed = random.choice(_CHANGES)(original, random)
        if changed != original:
            return changed


def _flip(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    extra = random.choice((b" ", b"\n", b"\r", b"\t", b"\0", b"0", b'"', b"\\", "\u202e".encode(), b"\xef\xbb\xbf"))
    return data[:at] + (extra if random.random() < 0.5 else random.randbytes(1)) + data[at:]


def _delete(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def _mark(data: bytes, random: Random) -> bytes:
    return b"\xef\xbb\xbf" + data if random.random() < 0.5 else data[:-1]


def _spell(data: bytes, random: Random) -> bytes:
    before, after = random.choice(SPELLINGS)
    places = data.count(before)
    if not places:
        return data
    parts = data.split(before)
    at = random.randrange(places) + 1
    return before.join(parts[:at]) + after + before.join(parts[at:])


def _of_lines(change: Callable[[list[bytes], Random], None]) -> Callable[[bytes, Random], bytes]:
    def changed(data: bytes, random: Random) -> bytes:
        lines = data.splitlines(keepends=True)
        change(lines, random)
        return b"".join(lines)

    return changed


def _drop(lines: list[bytes], random: Random) -> None:
    del lines[random.randrange(len(lines))]


def _double(lines: list[bytes], random: Random) -> None:
    lines.insert(random.randrange(len(lines) + 1), random.choice(lines))


def _swap(lines: list[bytes], random: Random) -> None:
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


def _append(lines: list[bytes], random: Random) -> None:
    lines.append(
        random.choice((lines[-1], lines[0], random.choice(lines), b"\n", b"{}\n", b'{"kind":"note"}\n', b"\0"))
    )


def _upper(lines: list[bytes], random: Random) -> None:
    at = random.randrange(len(lines))
    lines[at] = lines[at].upper() if random.random() < 0.2 else lines[at].title()


def _another_field(lines: list[bytes], random: Random) -> None:
    at = random.randrange(len(lines))
    document = json.loads(lines[at])
    owner = document
    if document["kind"] == "header" and random.random() < 0.7:
        owner = random.choice(document["segments"])
    _change_field(owner, random)
    lines[at] = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _change_field(owner: dict[str, Any], random: Random) -> None:
    name = random.choice(sorted(owner))
    how = random.randrange(5)
    if how == 0:
        del owner[name]
    elif how == 1:
        owner[f"{name}x"] = owner.pop(name)
    elif how == 2:
        owner["note"] = owner[name]
    elif how == 3 and isinstance(owner[name], int):
        owner[name] += random.choice((-1, 1, 2, 1000))
    else:
        owner[name] = random.choice((None, True, 0, 1, -1, 2**70, 1.5, "", "s1", "other", [], {}, "0" * 64))


_CHANGES: Sequence[Callable[[bytes, Random], bytes]] = (
    _flip,
    _insert,
    _delete,
    _cut,
    _mark,
    _spell,
    _of_lines(_drop),
    _of_lines(_double),
    _of_lines(_swap),
    _of_lines(_append),
    _of_lines(_upper),
    _of_lines(_another_field),
)
