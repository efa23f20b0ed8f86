"""Tasks with their input encrypted, and inputs that only look so."""

import os
from typing import Any

import pytest

from flotilla.contracts.errors import Invalid
from flotilla.contracts.tasks import RecordedCall, Replay
from flotilla.encryption import DataKey, opened_task, sealed_task
from flotilla.encryption.keyring import Cipher
from tests.support.agents import task

CIPHER = Cipher("k1", DataKey(os.urandom(32), "default", "s1"))
LOOKS_SEALED: list[dict[str, Any]] = [
    {"flotilla:sealed": {"input": {"a": 1}, "replay": {"of_run": "r0", "calls": [{"agent": "a", "tool": "t"}]}}},
    {"flotilla:sealed": "text"},
    {"flotilla:sealed": None},
]


def test_an_encrypted_task_holds_no_word_and_is_read_back() -> None:
    replay = Replay(of_run="r0", calls=[RecordedCall(agent="a", tool="t", args={}, result="canary")])
    clear = task(input={"text": "canary"}, replay=replay)
    sealed = sealed_task(CIPHER, clear)
    assert "canary" not in str(sealed)
    assert opened_task(CIPHER, sealed) == clear


@pytest.mark.parametrize("given", LOOKS_SEALED)
def test_an_input_that_only_looks_encrypted_is_an_input(given: dict[str, Any]) -> None:
    """It must not pass for what the fleet encrypted: that says what a replay's tools returned."""
    clear = task(input=given)
    assert opened_task(None, clear) == opened_task(CIPHER, clear) == clear
    sealed = sealed_task(CIPHER, clear)
    assert sealed != clear
    assert opened_task(CIPHER, sealed) == clear


@pytest.mark.parametrize("cipher", [CIPHER, None])
@pytest.mark.parametrize("text", ["[erased]", "flotilla:sealed:1:AAAA"])
def test_an_input_that_could_be_taken_for_an_encrypted_one_is_refused(cipher: Cipher | None, text: str) -> None:
    with pytest.raises(Invalid, match="rename its member"):
        sealed_task(cipher, task(input={"flotilla:sealed": text}))
