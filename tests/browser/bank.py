"""A bank that takes no money back: what makes compensations of real orders fail for good."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from flotilla.contracts.names import order_workflow_id
from flotilla_devstack.servers.temporal import find_temporal
from tests.browser.console import Console, until
from tests.browser.written import TENANT, execute, value_of

REFUSAL = "the bank takes no money back"
RESERVED = "25.00"
COMPENSATION = "release_funds"
_CLOSE = f"""
CREATE FUNCTION flotilla.closed_bank() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$;
CREATE TRIGGER closed_bank BEFORE UPDATE ON flotilla.reservations
    FOR EACH ROW WHEN (NEW.status = 'cancelled') EXECUTE FUNCTION flotilla.closed_bank();
"""
_OPEN = """
DROP TRIGGER IF EXISTS closed_bank ON flotilla.reservations; DROP FUNCTION IF EXISTS flotilla.closed_bank();
"""
# Whose identity nobody verified: the order fails once the money is reserved, and has to be undone.
_ACCOUNT = """
INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor, verified)
VALUES ($1, $2, 'EUR', 10000, false)
"""
_AVAILABLE = "SELECT available_minor FROM flotilla.accounts WHERE tenant_id = $1 AND user_id = $2"


@dataclass
class Bank:
    """Its database is the fleet's own, so is the worker; only the ten minutes of retries are cut short."""

    console: Console
    buyer: str = field(default_factory=lambda: f"buyer-{secrets.token_hex(4)}")

    def parked_order(self) -> str:
        """The id of an order that could not be undone."""
        order_id = f"o-{secrets.token_hex(4)}"
        body = {"order_id": order_id, "user_id": self.buyer, "amount": RESERVED, "product_id": "rope"}
        with self.console.api() as api:
            answer = api.post("/v1/orders", json=body)
            assert answer.status_code == 202, answer.text
        self.park(order_id)
        return order_id

    def park(self, order_id: str) -> None:
        """Waits until the order's compensation has failed for good; its next try is its last."""
        activity = until(lambda: self._pending(order_id))
        self._temporal(order_id, "activity", "update-options", "--activity-id", activity, "--retry-maximum-attempts=1")
        with self.console.api() as api:
            until(lambda: api.get(f"/v1/orders/{order_id}").json()["status"] == "compensation_failed")

    def open(self) -> None:
        """It takes money back again."""
        execute(self.console.fleet, _OPEN)

    def available(self) -> int:
        """What the buyer has, in cents."""
        return cast("int", value_of(self.console.fleet, _AVAILABLE, TENANT, self.buyer))

    def _pending(self, order_id: str) -> str | None:
        """The compensation's activity, once a try of it has failed."""
        workflow = json.loads(self._temporal(order_id, "workflow", "describe"))
        for activity in workflow.get("pendingActivities", []):
            if activity["activityType"]["name"] == COMPENSATION and int(activity.get("attempt", 1)) > 1:
                return str(activity["activityId"])
        return None

    def _temporal(self, order_id: str, *arguments: str) -> str:
        port = self.console.fleet.process("temporal")["ports"]["grpc"]
        where = ["--address", f"127.0.0.1:{port}", "--workflow-id", order_workflow_id(TENANT, order_id), "-o", "json"]
        command = [str(find_temporal()), *arguments, *where]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def closed_bank(console: Console) -> Iterator[Bank]:
    """It is closed within the block, until somebody opens it."""
    bank = Bank(console)
    execute(console.fleet, _ACCOUNT, TENANT, bank.buyer)
    execute(console.fleet, _CLOSE)
    try:
        yield bank
    finally:
        bank.open()


def operators_of(console: Console, order_id: str) -> list[tuple[Any, ...]]:
    """What the order's history says of the people who saw to it."""
    with console.api() as api:
        events = api.get(f"/v1/sessions/{order_id}/events").json()["events"]
    found = [event["data"].get("details", {}).get("operator") for event in events]
    return [(one["verb"], one["subject"], one["reason"]) for one in found if one]
