"""Runs at a steady rate, from inside the cluster: `python load.py URL RATE SECONDS BATCH`, with the key in TOKEN.

Each request opens a connection of its own, so that each one goes through the Service. RETRY_S is how long a request
that fails is repeated, under its idempotency key; a failure is what is left then. Prints one line of JSON.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter

import httpx

QUERY = "Who inspects the mooring lines at Northquay?"


async def _asked(client: httpx.AsyncClient, session: str) -> str:
    """Empty when the run was accepted, else what came instead."""
    try:
        answer = await client.post(
            f"/v1/sessions/{session}/runs", json={"query": QUERY}, headers={"Idempotency-Key": session}
        )
    except httpx.TransportError as error:
        return repr(error)
    return "" if answer.status_code in (200, 202) else f"{answer.status_code} {answer.text[:100]}"


async def _start(client: httpx.AsyncClient, session: str, retry_s: float, failures: Counter[str]) -> None:
    until = time.monotonic() + retry_s
    while failed := await _asked(client, session):
        if time.monotonic() > until:
            failures[failed] += 1
            return
        await asyncio.sleep(0.5)


async def main(url: str, rate: float, seconds: float, batch: str) -> None:
    failures: Counter[str] = Counter()
    retry_s = float(os.environ.get("RETRY_S", "0"))
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}", "Connection": "close"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
        asyncio.TaskGroup() as group,
    ):
        begin = time.monotonic()
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            group.create_task(_start(client, f"{batch}-{number}", retry_s, failures))
    sys.stdout.write(json.dumps({"failures": failures, "took_s": time.monotonic() - begin}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
