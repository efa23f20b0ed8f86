"""A time-stamp authority (RFC 3161) of the test's own: OpenSSL behind HTTP."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_CONFIG = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


class Authority:
    """Stamps what it is asked; `answer` is given instead of a stamp, for one that misbehaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "tsa.pem"
        self.answer: bytes | None = None
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))
        purpose = "extendedKeyUsage=critical,timeStamping"
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "tsa.key")
        openssl("req", "-x509", *new, "-out", self.certificate, "-subj", "/CN=Time", "-days", "2", "-addext", purpose)

    def stamp(self, query: bytes) -> bytes:
        """The answer to a query."""
        if self.answer is not None:
            return self.answer
        (self._folder / "query").write_bytes(query)
        openssl(
            "ts", "-reply", "-config", self._folder / "tsa.cnf", "-queryfile", self._folder / "query", "-out",
            self._folder / "reply",
        )  # fmt: skip
        return (self._folder / "reply").read_bytes()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve it on a local port; yields its URL."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = authority.stamp(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def openssl(*arguments: str | Path) -> str:
    """What `openssl` writes, which has to succeed."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
