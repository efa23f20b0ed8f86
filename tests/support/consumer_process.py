"""A consumer process. Its handler notes each start in the list `started:<subject>` and each end in `ended:<subject>`.

The event's data may ask it to take its time (`sleep_s`) or to hang (`hang_on`: the name of the consumer that does).
"""

import asyncio
import json
import signal
import sys
from typing import Any

from flotilla.bus import DONE, Consumer, ConsumerOptions, Delivery, HandlerResult, connect_redis
from flotilla.bus.connection import execute_redis_command


async def main(what: dict[str, Any]) -> None:
    name = what["name"]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with connect_redis(what["url"]) as redis:

        async def handle(delivery: Delivery) -> HandlerResult:
            subject, data = delivery.event.subject, delivery.event.data
            await execute_redis_command(redis, "RPUSH", f"started:{subject}", name)
            if data.get("hang_on") == name:
                await asyncio.Event().wait()
            await asyncio.sleep(float(str(data.get("sleep_s", 0))))
            await execute_redis_command(redis, "RPUSH", f"ended:{subject}", name)
            return DONE

        # Longer than any test waits for its end: a handler that hangs holds it up.
        options = ConsumerOptions(min_idle_ms=what["min_idle_ms"], block_ms=200, grace_s=300)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await Consumer(redis, what["stream"], what["group"], name, handle, options).run(stop)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
