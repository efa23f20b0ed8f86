"""Why a server could not be reached, and what to change: from the error that is behind whatever was raised."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

_EXPIRED, _OTHER_NAME = 10, 62
"""OpenSSL's codes (its manual, X509_STORE_CTX_get_error)."""


@dataclass(frozen=True, slots=True)
class ServerVariables:
    """The settings of one server that a hint may name."""

    address: str
    ca_file: str = ""
    name: str = ""
    """Of the server in its certificate."""


def hint_for_error(error: BaseException, variables: ServerVariables) -> str | None:
    """Return what to change where something behind `error` is known, else None."""
    for each in _behind(error):
        if (hint := _known(each, variables)) is not None:
            return hint
    return None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _known(error: BaseException, variables: ServerVariables) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, variables)
    if isinstance(error, ssl.SSLError):
        return (
            f"the two sides do not agree on TLS: check {variables.address}, whether its port speaks TLS, and the "
            "client's certificate if it asks for one"
        )
    if isinstance(error, socket.gaierror):
        return f"the name can't be resolved: check the host in {variables.address}, and DNS"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens there: start the server, or check host and port in {variables.address}"
    if isinstance(error, TimeoutError):
        return f"nothing answers there: check host and port in {variables.address}, firewalls and network policies"
    return None


def _of_certificate(error: ssl.SSLCertVerificationError, variables: ServerVariables) -> str:
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired: renew it, and have the server load it"
    if error.verify_code == _OTHER_NAME:
        by_name = f", or set {variables.name}" if variables.name else ""
        return f"the certificate is for another name: address the server by one that is in it{by_name}"
    ca_file = f"set {variables.ca_file} to" if variables.ca_file else "trust"
    return f"the authority that signed the certificate is not trusted: {ca_file} its certificates (PEM)"
