"""`flotilla tools allow`: what is allowed is what somebody has read."""

from typing import Any

import pytest

from flotilla_cli.errors import Misuse
from flotilla_cli.verbs.tools import confirm_description

OFFERED: dict[str, Any] = {
    "sha256": "a" * 64,
    "title": None,
    "description": "Adds.",
    "input_schema": {},
    "annotations": {},
}


def test_a_script_names_the_hash_of_what_its_person_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(Misuse, match="without a terminal") as refused:
        confirm_description("desk.add", OFFERED)
    assert "--sha256" in str(refused.value.hint)


def test_a_person_is_shown_the_description_and_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert confirm_description("desk.add", OFFERED) == OFFERED["sha256"]
    assert "Adds." in capsys.readouterr().err
