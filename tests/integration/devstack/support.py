"""Pieces of the devstack tests: a service that is real enough, and a look at processes."""

import ipaddress
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flotilla_devstack.process import ProcessIdentity

# Serves /readyz as every service does; prints its arguments; ends on SIGTERM with a word of its own.
SERVICE = """
import http.server, json, os, pathlib, signal, sys, threading

port = int(os.environ["FLOTILLA_METRICS_PORT"])
pathlib.Path(os.environ["SEEN"]).mkdir(exist_ok=True)
name = sys.modules["__main__"].__spec__.name if __spec__ else "script"
told = {key: value for key, value in os.environ.items() if key.startswith(("FLOTILLA_", "OPENAI_"))}
(pathlib.Path(os.environ["SEEN"]) / f"{name}.json").write_text(json.dumps(told))
not_ready = pathlib.Path(os.environ["SEEN"]) / "not-ready"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        waiting = not_ready.exists()
        self.send_response(503 if waiting else 200)
        self.end_headers()
        self.wfile.write(b"waiting for redis" if waiting else b"ready")

    def log_message(self, *_):
        pass

def drain(*_):
    print("drained", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, drain)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def write_service(folder: Path) -> Path:
    """The service as a script."""
    path = folder / "service.py"
    path.write_text(SERVICE)
    return path


def identity_of(pid: int | None) -> ProcessIdentity:
    """The process, which must exist."""
    assert pid is not None
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return identity


@contextmanager
def run_python(code: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A Python process of the tests' own, killed at the end of the block; its standard output is a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def listening_addresses(family: list[ProcessIdentity]) -> dict[int, str]:
    """Port → address of every TCP socket that these processes listen on (proc(5), net/tcp)."""
    ours = {inode for member in family for inode in _socket_inodes(member.pid)}
    found: dict[int, str] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and fields[9] in ours:
                found[int(port, 16)] = _address(address)
    return found


def _socket_inodes(pid: int) -> list[str]:
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]


def _address(hexadecimal: str) -> str:
    """The kernel writes addresses as 32-bit words in the machine's byte order."""
    words = [hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)
