"""kill -9 in the middle of a load of 2,000 files, of a synchronization, and of an embedding: what is there is whole
and there once, and the next try brings the rest."""

import asyncio
import json
import os
import random
import sys
from functools import partial
from pathlib import Path

import pytest

from flotilla.knowledge import KnowledgeBase
from flotilla.postgres import Pool, tenant_transaction
from tests.integration.gateway.conftest import gateway, log_topics, operator, replica
from tests.integration.knowledge.index_contents import analysed_passages, postings
from tests.support.gateway import RunningGateway
from tests.support.loading_process import TENANT, document
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
__all__ = ["gateway", "log_topics", "operator", "replica"]
FILES = 2_000
FLOTILLA = str(Path(sys.executable).with_name("flotilla"))
# Nothing half: passages, index and counters agree; nothing twice: each document and vector once.
_HALF = """
SELECT d.document_id FROM flotilla.documents AS d
LEFT JOIN flotilla.indexed_documents AS i USING (tenant_id, document_id)
WHERE i.document_id IS NULL OR i.passages <> d.passages OR i.content_hash <> d.content_hash
   OR d.passages <> (SELECT count(*) FROM flotilla.passages AS p
                     WHERE p.tenant_id = d.tenant_id AND p.document_id = d.document_id)
"""
_COUNTERS = """
SELECT b.passages = (SELECT count(*) FROM flotilla.passages) AND b.indexed_passages = b.passages
   AND b.indexed_length = (SELECT sum(length) FROM flotilla.indexed_documents) FROM flotilla.knowledge_bases AS b
"""


async def started(*command: str, **environment: str) -> asyncio.subprocess.Process:
    program = (FLOTILLA,) if command[0] == "documents" else (sys.executable, "-m")
    return await asyncio.create_subprocess_exec(
        *program, *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment}
    )


async def killed_after(process: asyncio.subprocess.Process, lines: int) -> bool:
    """Kill the process after so many lines; False when it ended before."""
    assert process.stdout
    for _ in range(lines):
        if not await process.stdout.readline():
            break
    was_alive = process.returncode is None and not process.stdout.at_eof()
    if process.returncode is None:
        process.kill()
    await process.wait()
    return was_alive


async def check_whole(pool: Pool) -> int:
    """Assert that nothing is half, and return how many documents there are."""
    async with tenant_transaction(pool, TENANT) as connection:
        assert await connection.fetch(_HALF) == []
        assert await connection.fetchval(_COUNTERS) is not False
        assert await postings(connection) == await analysed_passages(connection)
        return int(await connection.fetchval("SELECT count(*) FROM flotilla.documents"))


async def test_a_load_that_is_killed_again_and_again(pool: Pool, database: Database) -> None:
    draw = random.Random(5)  # noqa: S311 - drawn alike in every run
    dsn = database.dsn()
    for generation in (1, 2):  # new documents, then each with other content
        kills = 0
        for lines in (*(draw.randrange(20, 400) for _ in range(5)), FILES + 1):
            process = await started("tests.support.loading_process", "load", dsn, "0", str(FILES), str(generation))
            kills += await killed_after(process, lines)
            await check_whole(pool)
        assert kills >= 5
    assert await check_whole(pool) == FILES
    knowledge = KnowledgeBase(pool)
    for number in (0, 777, FILES - 1):
        assert (await knowledge.add(TENANT, document(number, 2))).unchanged
        [first, *_] = await knowledge.search(TENANT, f"pier {number}", 3)
        assert first.source.uri == f"{number}.md"


async def test_an_embedding_that_is_killed_serves_no_half_and_embeds_nothing_twice(
    pool: Pool, database: Database
) -> None:
    dsn = database.dsn()
    process = await started("tests.support.loading_process", "load", dsn, "0", "600", "1")
    assert not await killed_after(process, 601)
    for model, others in (("one", None), ("two", "one")):
        for batches in (3, 10, 20):
            assert await killed_after(await started("tests.support.loading_process", "embed", dsn, model), batches)
            async with tenant_transaction(pool, TENANT) as connection:
                assert await connection.fetchval("SELECT embedded_by FROM flotilla.knowledge_bases") == others
        assert not await killed_after(await started("tests.support.loading_process", "embed", dsn, model), 10_000)
        async with tenant_transaction(pool, TENANT) as connection:
            assert await connection.fetchval("SELECT embedded_by FROM flotilla.knowledge_bases") == model
            rows = await connection.fetch(
                "SELECT model, count(*), count(DISTINCT passage_no) FROM flotilla.passage_embeddings GROUP BY 1"
            )
            passages = await connection.fetchval("SELECT count(*) FROM flotilla.passages")
        assert [tuple(row) for row in rows] == [(model, passages, passages)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(FILES):
        (tmp_path / f"{number}.md").write_bytes(document(number, 1).content)
    return tmp_path


async def test_a_synchronization_that_is_killed_is_finished_by_the_next(gateway: RunningGateway, folder: Path) -> None:
    key = await gateway.key("loader", ["operator"])
    environment = {"FLOTILLA_URL": gateway.url, "FLOTILLA_TOKEN": key}
    command = ("documents", "sync", str(folder), "--base", "kb:")

    async def at_least(count: int) -> bool:
        async with tenant_transaction(gateway.pool, TENANT) as connection:
            found: int = await connection.fetchval("SELECT count(*) FROM flotilla.documents")
        return found >= count

    for goal in (100, 700):
        process = await started(*command, **environment)
        await eventually(partial(at_least, goal), timeout_s=300, every_s=0.2)
        process.kill()
        await process.wait()
        await check_whole(gateway.pool)
    for number in range(0, FILES, 2):
        (folder / f"{number}.md").unlink()
    for number in range(1, 200, 2):
        (folder / f"{number}.md").write_bytes(document(number, 2).content)
    done = await started(*command, "-o", "json", **environment)
    out, _ = await done.communicate()
    assert done.returncode == 0, out
    assert await check_whole(gateway.pool) == FILES // 2
    again = await started(*command, "-o", "json", **environment)
    out, _ = await again.communicate()
    report = json.loads(out)
    assert (report["added"], report["replaced"], report["removed"], report["failed"]) == ([], [], [], [])
    assert report["unchanged"] == FILES // 2
