"""Documents of any name and content: taken and found again by that name, or refused with the reason; never an error of
ours, and never one document in another's place."""

import gzip
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from tests.integration.gateway.conftest import Replica

TEXT = b"# Kiosk\n\nThe kiosk of Aldersund sells plums."
BOUNDARY = b"boundary-of-this-test"
NAMES = {
    "NUL": b"a\x00b.md",
    "not UTF-8": b"\xff\xfe.md",
    "an encoded surrogate": b"\xed\xa0\x80.md",
    "a newline, escaped": b"a%0Ab.md",
    "a quote, escaped": b'a\\"b.md',
    "a control character": b"a\x1b[31m.md",
    "right to left": "\u202egnp.md".encode(),
    "Arabic": "\u0645\u0644\u0641.md".encode(),
    "a reserved name": b"CON.md",
    "a path of Windows": b"C:\\Users\\x\\a.md",
    "a path upwards": b"../../etc/passwd.md",
    "dots": b"...",
    "a blank": b" ",
    "nothing": b"",
    "an emoji": "\U0001f9ff.md".encode(),
    "composed": "\u00e9.md".encode(),
    "decomposed": "e\u0301.md".encode(),
    "a noncharacter": "\ufffe.md".encode(),
    "900 characters": b"a" * 900 + b".md",
    "10,000 characters": b"a" * 10_000 + b".md",
    "JSON": b'{"uri":1}.md',
    "SQL": b"';DROP TABLE documents;--.md",
}
CONTENTS = {
    "nothing": (b"", "a.md"),
    "a byte order mark": (b"\xef\xbb\xbf", "a.md"),
    "blanks": (b" \n\t\r\n" * 1000, "a.txt"),
    "NULs": (bytes(10_000), "a.txt"),
    "a NUL between words": (b"plums\x00pears", "a.txt"),
    "a picture called Markdown": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "a.md"),
    "a program called text": (b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40, "a.txt"),
    "gzip called HTML": (gzip.compress(TEXT), "a.html"),
    "one line of a megabyte": (b"plum " * 200_000, "a.txt"),
    "one word of a megabyte": (b"p" * 1_000_000, "a.txt"),
    "UTF-16 with its mark": ("The kiosk sells plums.".encode("utf-16"), "a.txt"),
    "UTF-16 without": ("The kiosk sells plums.".encode("utf-16-le"), "a.txt"),
    "UTF-32": ("The kiosk sells plums.".encode("utf-32"), "a.txt"),
    "encoded surrogates": (b"plums \xed\xa0\x80\xed\xb0\x80", "a.txt"),
    "lone continuation bytes": (b"\x80\x81\x82" * 100, "a.txt"),
    "an empty ZIP called Word": (b"PK\x05\x06" + bytes(18), "a.docx"),
    "text called PDF": (TEXT, "a.pdf"),
    "a PDF that is cut": (b"%PDF-1.7\n1 0 obj\n<<", "a.pdf"),
    "text called Excel": (TEXT, "a.xlsx"),
    "no message called mail": (b"\r\n\r\n", "a.eml"),
    "quotes without end called CSV": (b'"' * 100_001, "a.csv"),
    "a row of 100,000 cells": (b"," * 100_000, "a.csv"),
    "tags without end": (b"<div><" * 20_000, "a.html"),
    "noncharacters and private use": ("\ufdd0\uffff\ue000 plums".encode(), "a.md"),
    "zero-width letters": ("p\u200bl\u200bum ".encode() * 100, "a.md"),
    "1,000 combining marks": (("a" + "\u0301" * 1000).encode(), "a.md"),
}
PARTS = {
    "a uri with NUL": {"uri": "a\x00b.md"},
    "an empty uri": {"uri": ""},
    "a blank uri": {"uri": " \t"},
    "a long uri": {"uri": "u" * 1001},
    "a uri with a newline": {"uri": "a\nb.md"},
    "a title with NUL": {"title": "a\x00b"},
    "a long title": {"title": "t" * 501},
    "a title of control characters": {"title": "\x1b]0;x\x07"},
    "a media type that is none": {"media_type": "text/markdown\x00"},
    "a charset that is none": {"media_type": "text/html; charset=\x00"},
    "a charset that decodes no text": {"media_type": "text/plain; charset=base64"},
    "a charset of a megabyte": {"media_type": "text/plain; charset=" + "x" * 99_999},
    "a field that is none": {"uri": "a.md", "colour": "red"},
}


def form(name: bytes, content: bytes, fields: Mapping[str, str] = {}) -> bytes:
    """A multipart body, byte for byte as given."""
    parts = [(f'name="{key}"'.encode(), value.encode()) for key, value in fields.items()]
    parts.append((b'name="file"; filename="' + name + b'"', content))
    body = b"".join(
        b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"
        for head, value in parts
    )
    return body + b"--" + BOUNDARY + b"--\r\n"


async def post(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    return await client.post("/v1/documents", content=body, headers=headers)


REFUSALS = {400, 413, 422}


@pytest.fixture
async def operator(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway without limits of rate."""
    many: dict[str, float] = {"requests_per_s": 1e6, "requests_per_s_per_person": 1e6}
    async with replica(request_burst=1_000_000, request_burst_per_person=1_000_000, **many) as gateway:
        yield await gateway.client_of("olga", "operator", person=True)


async def outcomes(operator: httpx.AsyncClient, bodies: Mapping[str, bytes]) -> dict[str, httpx.Response]:
    """What each upload is answered."""
    return {kind: await post(operator, body) for kind, body in bodies.items()}


def unexplained(answers: Mapping[str, httpx.Response]) -> dict[str, str]:
    """The answers that neither took the document nor say why not."""
    fit = {
        kind: answer.status_code in (200, 201) or (answer.status_code in REFUSALS and answer.json()["detail"])
        for kind, answer in answers.items()
    }
    return {kind: f"{answers[kind].status_code} {answers[kind].text}" for kind, ok in fit.items() if not ok}


async def test_any_name_is_kept_as_it_is_or_refused(operator: httpx.AsyncClient) -> None:
    answers = await outcomes(operator, {kind: form(name, TEXT) for kind, name in NAMES.items()})
    assert unexplained(answers) == {}
    taken = {kind: answer.json() for kind, answer in answers.items() if answer.status_code == 201}
    assert len({row["document_id"] for row in taken.values()}) == len(taken)
    assert len(taken) >= len(NAMES) // 2
    listed = (await operator.get("/v1/documents")).json()["documents"]
    assert {row["uri"] for row in listed} == {row["uri"] for row in taken.values()}
    for row in taken.values():
        same = await operator.get("/v1/documents", params={"prefix": row["uri"], "limit": 1})
        assert same.json()["documents"][0]["uri"].startswith(row["uri"])
        assert (await operator.delete(f"/v1/documents/{row['document_id']}")).status_code == 200


async def test_any_content_is_read_or_refused(operator: httpx.AsyncClient) -> None:
    uris = {kind: f"{number}-{name}" for number, (kind, (_, name)) in enumerate(CONTENTS.items())}
    bodies = {kind: form(uris[kind].encode(), content) for kind, (content, _) in CONTENTS.items()}
    answers = await outcomes(operator, bodies)
    assert unexplained(answers) == {}
    taken = [answer.json() for answer in answers.values() if answer.status_code == 201]
    listed = (await operator.get("/v1/documents")).json()["documents"]
    assert [row["uri"] for row in listed] == sorted(row["uri"] for row in taken)
    assert all(row["passages"] > 0 for row in listed)
    for row in taken:
        assert (await operator.get(f"/v1/documents/{row['document_id']}")).json()["text"].strip()
    found = (await operator.get("/v1/documents/search", params={"q": "kiosk", "k": 50})).json()["passages"]
    assert any(passage["source"]["uri"] == uris["UTF-16 with its mark"] for passage in found)
    refused = {kind for kind, answer in answers.items() if answer.status_code in REFUSALS}
    assert refused >= {"nothing", "NULs", "a picture called Markdown", "gzip called HTML"}


async def test_any_other_part_of_the_form_is_used_or_refused(operator: httpx.AsyncClient) -> None:
    answers = await outcomes(operator, {kind: form(b"b.md", TEXT, fields) for kind, fields in PARTS.items()})
    assert unexplained(answers) == {}
    assert (await operator.get("/v1/documents")).status_code == 200
