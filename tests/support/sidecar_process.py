"""The sidecar of the example in TypeScript as a process that is to be killed, with the example's program."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from flotilla.agent.sidecar.service import serve_sidecar_workers
from flotilla.agent.sidecar.settings import SidecarSettings
from flotilla.runtime import Runtime
from tests.support.killable import shorten_claims


async def main(what: dict[str, Any]) -> None:
    os.environ |= what["environment"]
    shorten_claims(what["claim_s"])
    settings = SidecarSettings(
        postgres_dsn=what["dsn"],
        redis_url=what["url"],
        ticket_public_key_file=Path(what["keys"]),
        approval_policy=what["policy"],
        agent_name="refunds-typescript",
        bus_min_idle_ms=what["min_idle_ms"],
    )
    runtime = Runtime(what["name"])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runtime.request_stop, "SIGTERM")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await serve_sidecar_workers(["node", f"{what['folder']}/dist/main.js"], settings, runtime)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
