"""Pieces of the devstack tests: a service that is real enough, and a look at processes."""

import subprocess
import sys
from pathlib import Path

from flotilla_devstack.process import Identity

# Serves /readyz as every service does; says what it was told; ends on SIGTERM with a word of its own.
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


def identity_of(pid: int | None) -> Identity:
    """The process, which must exist."""
    assert pid is not None
    identity = Identity.of(pid)
    assert identity is not None
    return identity


def run_python(code: str, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """A Python process of the tests' own; its standard output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
