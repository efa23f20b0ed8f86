"""An example's agent as a process, in the example's own environment."""

import asyncio
import importlib
import json
import os
import sys
from typing import Any

from flotilla.config import LlmSettings, load_settings
from flotilla.llm import create_model
from flotilla.postgres import open_pool
from tests.support.killable import work


async def main(what: dict[str, Any]) -> None:
    os.environ |= what["environment"]
    sys.path.insert(0, what["folder"])
    agent = importlib.import_module(f"{what['package']}.agent").agent
    async with open_pool(what["dsn"], application=agent.name, max_size=8) as pool:
        await work(agent, create_model(load_settings(LlmSettings)), pool, what)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
