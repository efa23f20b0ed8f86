"""The relay that one writes first: row by row, waiting for each acknowledgement, polling each half second."""

import asyncio
import sys

import asyncpg
from aiokafka import AIOKafkaProducer

_POLL_S = 0.5


async def main(dsn: str, bootstrap: str, topic: str) -> None:
    """Relays until it is ended."""
    connection = await asyncpg.connect(dsn)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        while True:
            rows = await connection.fetch(
                "SELECT id, lane, tenant_id || '/' || session_id AS key, body "
                "FROM flotilla.event_outbox ORDER BY id LIMIT 100"
            )
            for row in rows:
                await producer.send_and_wait(topic, row["body"], key=row["key"].encode(), partition=row["lane"])
                await connection.execute("DELETE FROM flotilla.event_outbox WHERE id = $1", row["id"])
            await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
