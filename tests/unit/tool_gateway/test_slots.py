"""How many calls a server has at a time, and whose they may be."""

from contextlib import ExitStack

import pytest

from tool_gateway.servers import McpServerConfig
from tool_gateway.slots import CallSlots, ServerBusy


def test_a_tenant_has_at_most_half_of_a_server_that_is_shared() -> None:
    slots = CallSlots("desk", McpServerConfig(command="x", max_calls=4, tenants=["*"]))
    with ExitStack() as calls:
        for _ in range(2):
            calls.enter_context(slots.hold("acme"))
        with pytest.raises(ServerBusy, match="desk"), slots.hold("acme"):
            pass
        for _ in range(2):
            calls.enter_context(slots.hold("globex"))
        with pytest.raises(ServerBusy, match="no call to spare") as busy, slots.hold("initech"):
            pass
        assert not any(character.isdigit() for character in str(busy.value)), "what others have is not in it"
    with slots.hold("acme"):
        pass


def test_the_only_tenant_of_a_server_has_all_of_it() -> None:
    slots = CallSlots("desk", McpServerConfig(command="x", max_calls=2))
    with slots.hold("acme"), slots.hold("acme"), pytest.raises(ServerBusy), slots.hold("acme"):
        pass
