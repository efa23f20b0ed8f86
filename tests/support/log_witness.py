"""A small witness of logs (https://c2sp.org/tlog-witness), which signs only what continues what it signed before."""

import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from flotilla.audit.notes import (
    WITNESS_KEY,
    NoteKey,
    NoteSignature,
    SignedNote,
    TreeHead,
    bytes_to_cosign,
    decode_note,
    decode_tree_head,
    why_tree_head_not_trusted,
)
from flotilla.audit.tree import node_hash
from flotilla.config.signing import PublicKeys, Signer, signer_with_new_key


def is_consistent(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that a tree of `size` leaves begins with that of `old` (RFC 9162, section 2.1.4.2)."""
    if old == size:
        return not path and old_root == root
    if not 0 < old < size:
        return False
    rest = list(path)
    if old & (old - 1) == 0:
        rest.insert(0, old_root)
    if not rest:
        return False
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    before = after = rest.pop(0)
    for sibling in rest:
        if last == 0:
            return False
        if node & 1 or node == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and before == old_root and after == root


@dataclass
class LogWitness:
    """What a witness knows, and how it answers; `keys` are those of the log that it watches."""

    name: str
    keys: PublicKeys
    signer: Signer = field(default_factory=signer_with_new_key)
    seen: dict[str, TreeHead] = field(default_factory=dict)
    answer: tuple[int, bytes] | None = None
    """Given instead of its own, for a witness that misbehaves."""
    asked: int = 0

    @property
    def key(self) -> NoteKey:
        return NoteKey(self.name, WITNESS_KEY, self.signer.public_key)

    def add_checkpoint(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self.asked += 1
        if self.answer is not None:
            return self.answer
        request, _, raw = body.partition(b"\n\n")
        old, *proof = request.decode().split("\n")
        note = decode_note(raw)
        head = decode_tree_head(note)
        if why_tree_head_not_trusted(note, head, self.keys) is not None:
            return 403, b""
        before = self.seen.get(head.origin)
        size = before.size if before else 0
        if old != f"old {size}":
            return 409, f"{size}\n".encode()
        path = [b64decode(line) for line in proof]
        if before is not None and not is_consistent(size, before.root, head.size, head.root, path):
            return 422, b"this tree does not begin with the one that was signed before"
        self.seen[head.origin] = head
        return 200, f"{cosignature(self, note).to_line()}\n".encode()


def cosignature(witness: LogWitness, note: SignedNote) -> NoteSignature:
    seconds = int(time.time())
    value = seconds.to_bytes(8, "big") + witness.signer.sign(bytes_to_cosign(seconds, note.text))
    return NoteSignature(witness.name, witness.key.key_id, value)


@contextmanager
def serving(witnesses: Sequence[LogWitness]) -> Iterator[list[str]]:
    """Serve them on local ports; yields their URLs."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(witness)) for witness in witnesses]
    threads = [Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(witness: LogWitness) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = witness.add_checkpoint(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status if self.path == "/add-checkpoint" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
