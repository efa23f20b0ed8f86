"""Events with encrypted data, decoded for readers."""

from typing import cast

import pytest

from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.encryption import Cipher, DataKey, sealed_data
from flotilla.eventstore import opening
from flotilla.postgres import Pool

KEY = DataKey(bytes(32), "default", "s1")
POOL = cast("Pool", None)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of each session, without a database."""

    async def found(*_: object) -> Cipher:
        return Cipher("p", KEY)

    monkeypatch.setattr(opening, "reading_cipher", found)


async def test_data_of_a_type_that_this_version_does_not_know_stays_as_it_was_recorded() -> None:
    said = sealed_data("message", {"role": "user", "content": "hello"}, KEY, "e")
    known = AgentEvent(type="flotilla.session.message.v1", source="/tests", subject="s1", id="e", data=said)
    later = AgentEvent(type="flotilla.session.message.v2", source="/tests", subject="s1", id="e", data=said)

    shown = await opening.decode_decrypted(POOL, "default", [encode_event(known), encode_event(later)])

    assert [event.data for event in shown] == [{"role": "user", "content": "hello"}, said]
