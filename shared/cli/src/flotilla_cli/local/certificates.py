"""The client's own certificate, and a look at a server's TLS from outside."""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

from flotilla_cli.errors import CliError


def check_client_certificate(path: Path | None, variable: str) -> None:
    """Look at the certificate that this client shows.

    Raises:
        CliError: it can't be read, or is not valid now.
    """
    from cryptography import x509

    if path is None:
        return
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CliError(f"{variable}={path} can't be read as a certificate: {error}", f"check {variable}") from error
    begins, ends, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if not begins <= now <= ends:
        raise CliError(
            f"{variable}={path} is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, not now",
            "renew it; if the dates are right, set this machine's clock",
        )


async def start_http2_connection(host: str, port: int, context: ssl.SSLContext, server_name: str | None) -> None:
    """Do what a client of HTTP/2 does before its first request. A server refuses the client's certificate
    only after the handshake (RFC 8446, 4.4.2.4), so a byte is read.

    Raises:
        OSError: the handshake failed; ssl.SSLError says how.
    """
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(3):
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name or host)
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))  # RFC 9113, 3.4: no settings
        async with asyncio.timeout(3):
            answer = await reader.read(1)
    finally:
        writer.close()
    if not answer:
        raise ssl.SSLError("the server closed the connection after the handshake")
