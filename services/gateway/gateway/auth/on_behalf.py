"""`Flotilla-On-Behalf-Of`: a service whose key has the right acts for one of its end users.

The header holds the user's subject, percent-encoded UTF-8 (RFC 3986) where it has other characters than visible ASCII.
"""

import unicodedata
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from flotilla.contracts.identity import MAX_LENGTH, is_identity_text
from gateway.problems import HttpProblem

HEADER = "Flotilla-On-Behalf-Of"
MAX_ENCODED_BYTES = MAX_LENGTH * 12
"""Every character of the longest subject as four percent-encoded bytes."""
_HEX = frozenset(b"0123456789abcdefABCDEF")
_VISIBLE = range(0x21, 0x7F)


class MalformedSubject(HttpProblem):
    """The header names nobody."""

    code = "on_behalf_of_malformed"

    def __init__(self, why: str) -> None:
        super().__init__(400, f"{HEADER}: {why}")


def read_on_behalf_of_header(request: Request) -> str | None:
    """Return the subject in the header; None without the header.

    Raises:
        MalformedSubject: the header is there, and holds no subject.
    """
    values = [value for name, value in request.headers.raw if name == HEADER.lower().encode()]
    if not values:
        return None
    if len(values) > 1:
        raise MalformedSubject("it is there more than once: send it once, for one person")
    return _subject(values[0])


def _subject(value: bytes) -> str:
    if not 0 < len(value) <= MAX_ENCODED_BYTES:
        raise MalformedSubject(f"give a subject of 1 to {MAX_LENGTH} characters")
    # A comma joins the values of a header that was sent twice (RFC 9110, section 5.2).
    if b"," in value or any(byte not in _VISIBLE for byte in value):
        raise MalformedSubject("write spaces, commas and what is not ASCII as percent-encoded UTF-8: %20, %2C, %C3%A9")
    subject = _decoded(value)
    if not is_identity_text(subject):
        raise MalformedSubject(
            f"a subject is 1 to {MAX_LENGTH} characters, all of them visible, without a space at its ends"
        )
    if not unicodedata.is_normalized("NFC", subject):
        raise MalformedSubject("send the subject in Unicode's normalization form C: two spellings would be two people")
    return subject


def _decoded(value: bytes) -> str:
    if any(not _HEX.issuperset(code[:2]) or len(code) < len("ff") for code in value.split(b"%")[1:]):
        raise MalformedSubject("after % come two hexadecimal digits; % itself is %25")
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise MalformedSubject("what is percent-encoded is not UTF-8") from error
