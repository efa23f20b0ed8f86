"""A worker to kill: governed actions, by the policy that it is given."""

import asyncio
import json
import sys
from typing import Any

from temporalio.client import Client

from flotilla.approvals.policy import parse_policy
from flotilla.postgres import open_pool
from tests.integration.approvals.desk import POLICY, open_desk


async def main(what: dict[str, Any]) -> None:
    """Works until it is killed."""
    policy = parse_policy(what.get("policy", POLICY), "test")
    client = await Client.connect(what["address"])
    async with (
        open_pool(what["dsn"], application="desk") as pool,
        open_desk(client, pool, what["queue"], policy=policy),
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
