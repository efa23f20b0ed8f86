"""A worker to kill: each order stops for good at the point that its id names, `reserve_funds-after`.

One that names a point of a compensation fails after its last step, so that it comes to be undone.
"""

import asyncio
import json
import sys
from typing import Any

from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from flotilla.postgres import open_pool
from tests.integration.saga.shop import Faults, open_shop

_FORWARD = ("reserve_funds", "verify_identity", "approve_order")


class Stops(Faults):
    """Says where an order has stopped."""

    async def meet(self, point: str, order_id: str) -> None:
        if point.replace(":", "-") == order_id:
            _say(order_id)
            await asyncio.Event().wait()
        if point == "approve_order:after" and not order_id.startswith(_FORWARD):
            raise ApplicationError(f"injected at {point}", type="Injected", non_retryable=True)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(what: dict[str, Any]) -> None:
    """Works until it is killed."""
    async with open_pool(what["dsn"], application="shop") as pool:
        client = await Client.connect(what["address"])
        async with open_shop(client, pool, what["queue"], Stops()):
            _say("ready")
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
