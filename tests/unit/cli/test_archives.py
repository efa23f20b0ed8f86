"""`flotilla audit restore`: where it reads from, and what is handed in at once."""

import json
from pathlib import Path

import pytest

from flotilla_cli.archive_files import fetch_archive
from flotilla_cli.errors import Misuse
from flotilla_cli.verbs.audit_archives import _chunks

LIMIT_BYTES = 2 * 1024 * 1024
"""What the gateway takes by default."""


@pytest.mark.parametrize("character", ["a", "é", "船", '"'])
def test_events_are_handed_in_as_large_as_the_gateway_takes_them(character: str) -> None:
    body = json.dumps({"content": character * 100_000}, ensure_ascii=False)
    events = [{"seq": seq, "body": body} for seq in range(30)]
    chunks = list(_chunks(iter(events)))
    assert [event for chunk in chunks for event in chunk] == events
    assert max(len(json.dumps({"events": chunk}, ensure_ascii=False).encode()) for chunk in chunks) <= LIMIT_BYTES
    assert len(chunks) <= len(events) / 2


@pytest.mark.parametrize("source", ["s3://", "s3://bucket", "s3://bucket/"])
def test_an_address_without_an_object_is_misuse(source: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="names no object"):
        fetch_archive(source, tmp_path / "archive")
