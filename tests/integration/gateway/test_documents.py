"""Documents are replaced and removed; the audit session and the answers that cite them keep what was recorded."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest

from flotilla.knowledge import documents
from flotilla_cli.errors import CliError
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.syncing import SyncedFolder, SyncPlan, SyncResult, apply_sync_plan, check_not_emptied, plan_sync
from flotilla_cli.target import GatewayTarget
from flotilla_cli.uploading import MAX_DOCUMENT_BYTES
from tests.support.gateway import ANSWER, RunningGateway

LEFT = """
SELECT (SELECT count(*) FROM flotilla.documents) AS documents, (SELECT count(*) FROM flotilla.passages) AS passages,
    (SELECT count(*) FROM flotilla.postings) AS postings, (SELECT count(*) FROM flotilla.indexed_documents) AS entries,
    (SELECT count(*) FROM flotilla.passage_embeddings) AS vectors
"""
EMBED = """
INSERT INTO flotilla.passage_embeddings SELECT tenant_id, passage_no, 'm', '[1,2,3]'::halfvec FROM flotilla.passages
"""


async def add(client: httpx.AsyncClient, uri: str, text: str, **fields: str) -> dict[str, Any]:
    answer = await client.post("/v1/documents", files={"file": (uri, text.encode())}, data={"uri": uri, **fields})
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def found(client: httpx.AsyncClient, query: str) -> list[str]:
    answer = await client.get("/v1/documents/search", params={"q": query})
    return [passage["source"]["uri"] for passage in answer.json()["passages"]]


async def audited(gateway: RunningGateway) -> list[tuple[str, dict[str, Any]]]:
    rows = await gateway.rows("SELECT body FROM flotilla.event_outbox WHERE session_id = 'flotilla:audit' ORDER BY seq")
    data = [json.loads(row["body"])["data"] for row in rows]
    return [(one["change"], one["details"]) for one in data if one.get("change", "").startswith("knowledge_document_")]


async def test_a_removed_document_is_found_nowhere_and_its_removal_is_recorded(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    await add(operator, "keep.md", "Gulls sleep on the pier.")
    gone = await add(operator, "gone.md", "Terns sleep on the pier.")
    await gateway.as_superuser(EMBED)
    [before] = await gateway.rows(LEFT)
    answer = await operator.delete(f"/v1/documents/{gone['document_id']}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["uri"] == "gone.md"
    assert await found(operator, "terns") == []
    assert await found(operator, "pier") == ["keep.md"]
    assert (await operator.get(f"/v1/documents/{gone['document_id']}")).status_code == 404
    assert [one["uri"] for one in (await operator.get("/v1/documents")).json()["documents"]] == ["keep.md"]
    [after] = await gateway.rows(LEFT)
    assert (before["documents"], before["passages"], before["entries"], before["vectors"]) == (2, 2, 2, 2)
    assert (after["documents"], after["passages"], after["entries"], after["vectors"]) == (1, 1, 1, 1)
    [[recorded, details]] = await audited(gateway)
    assert (recorded, details["document_id"], details["uri"], details["by"]) == (
        "knowledge_document_removed", gone["document_id"], "gone.md", "olga",
    )  # fmt: skip
    assert len(details["sha256"]) == 64
    assert (await operator.delete(f"/v1/documents/{gone['document_id']}")).status_code == 404


async def test_a_replaced_document_keeps_its_id_and_its_uri(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    first = await add(operator, "tide.md", "The tide table is blue.")
    path = f"/v1/documents/{first['document_id']}"
    answer = await operator.put(path, files={"file": ("other-name.md", b"The tide table is green.")})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["document_id"], answer.json()["uri"]) == (first["document_id"], "tide.md")
    assert await found(operator, "blue") == []
    assert await found(operator, "green") == ["tide.md"]
    again = await operator.put(path, files={"file": ("tide.md", b"The tide table is green.")})
    assert again.json()["unchanged"]
    assert [change for change, _ in await audited(gateway)] == ["knowledge_document_replaced"]
    broken = await operator.put(path, files={"file": ("tide.md", b"\x00\xff\xfe\x00binary\x00")})
    assert broken.status_code == 422
    assert await found(operator, "green") == ["tide.md"]
    gone = await operator.put("/v1/documents/none", files={"file": ("a.md", b"x")})
    assert gone.status_code == 404


async def test_documents_of_another_tenant_are_neither_removed_nor_replaced(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    mine = await add(operator, "mine.md", "The cormorant dives.")
    stranger = await gateway.client_of("eve", "operator", tenant="globex")
    path = f"/v1/documents/{mine['document_id']}"
    assert (await stranger.delete(path)).status_code == 404
    assert (await stranger.put(path, files={"file": ("mine.md", b"Nothing dives.")})).status_code == 404
    viewer = await gateway.client_of("victor", "viewer")
    assert (await viewer.delete(path)).status_code == 403
    assert await found(operator, "cormorant") == ["mine.md"]


async def test_documents_are_listed_below_an_address(operator: httpx.AsyncClient) -> None:
    for uri in ("wiki/a_1.md", "wiki/ab1.md", "wiki/b.md", "wikis/c.md"):
        await add(operator, uri, f"About {uri}.")

    async def listed(**params: str) -> list[str]:
        page = (await operator.get("/v1/documents", params=params)).json()
        return [one["uri"] for one in page["documents"]]

    assert await listed(prefix="wiki/") == ["wiki/a_1.md", "wiki/ab1.md", "wiki/b.md"]
    assert await listed(prefix="wiki/a_") == ["wiki/a_1.md"]
    assert await listed(prefix="%") == []


async def test_an_answer_names_the_documents_that_it_cites_and_that_are_gone(
    gateway: RunningGateway, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [await add(operator, f"{name}.md", f"The {name} is open.") for name in ("pier", "crane")]
    run = (await operator.post("/v1/sessions/s1/runs", json={"query": "What is open?"})).json()
    sources = [
        {"document_id": one["document_id"], "title": one["title"], "uri": one["uri"], "passage_id": "1", "start": 0,
         "end": 5, "score": 1.0}
        for one in documents
    ]  # fmt: skip
    monkeypatch.setitem(ANSWER, "sources", sources)
    await gateway.finish(run["run_id"])

    async def removed() -> tuple[list[str], list[str]]:
        one = (await operator.get(f"/v1/runs/{run['run_id']}")).json()
        [listed] = (await operator.get("/v1/runs")).json()["runs"]
        assert [source["uri"] for source in one["result"]["sources"]] == ["pier.md", "crane.md"]
        return one["removed_documents"], listed["removed_documents"]

    assert await removed() == ([], [])
    await operator.delete(f"/v1/documents/{documents[1]['document_id']}")
    gone = [documents[1]["document_id"]]
    assert await removed() == (gone, gone)


@pytest.fixture
async def cli(gateway: RunningGateway) -> AsyncIterator[GatewayClient]:
    """The command line's own client, as an operator."""
    with GatewayClient(GatewayTarget(gateway.url, await gateway.key("otto", ("operator",)))) as opened:
        yield opened


async def sync(cli: GatewayClient, folder: Path, base: str | None = None) -> SyncResult:
    def once() -> SyncResult:
        plan = plan_sync(cli, SyncedFolder(folder, base))
        return apply_sync_plan(cli, plan, 4, show_progress=False)

    return await asyncio.to_thread(once)


async def planned(cli: GatewayClient, folder: Path, base: str | None = None) -> SyncPlan:
    return await asyncio.to_thread(lambda: plan_sync(cli, SyncedFolder(folder, base)))


def names(loaded: Any) -> list[str]:
    return sorted(one.uri.rsplit("/", 1)[1] for one in loaded)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "deep er").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("The anchor is red.")
    (tmp_path / "docs" / "b.txt").write_text("The buoy is green.")
    (tmp_path / "docs" / "deep er" / "ç%20.md").write_text("The capstan is brown.")
    (tmp_path / "docs" / "photo.png").write_bytes(b"\x89PNG")
    return tmp_path / "docs"


@pytest.mark.parametrize("base", [None, "https://wiki.example/", "wiki"])
async def test_a_synchronized_folder_decides_which_documents_there_are(
    cli: GatewayClient, operator: httpx.AsyncClient, folder: Path, base: str | None
) -> None:
    await add(operator, "elsewhere.md", "The ferry is white.")
    first = await sync(cli, folder, base)
    assert len(first.added) == 3
    assert [Path(one.path).name for one in first.skipped] == ["photo.png"]
    again = await sync(cli, folder, base)
    assert (again.added, again.replaced, again.removed, again.unchanged, again.failed) == ([], [], [], 3, [])
    (folder / "a.md").write_text("The anchor is black.")
    (folder / "b.txt").unlink()
    (folder / "deep er" / "ç%20.md").rename(folder / "moved.md")
    plan = await planned(cli, folder, base)
    assert (names(plan.add), names(plan.replace), len(plan.remove)) == (["moved.md"], ["a.md"], 2)
    assert await found(operator, "buoy") != []
    done = await sync(cli, folder, base)
    assert (names(done.added), names(done.replaced), len(done.removed), done.failed) == (["moved.md"], ["a.md"], 2, [])
    assert await found(operator, "buoy") == []
    assert len(await found(operator, "black")) == 1
    assert len(await found(operator, "capstan")) == 1
    assert await found(operator, "ferry") == ["elsewhere.md"]


async def test_a_sync_continues_where_a_killed_one_stopped(
    cli: GatewayClient, operator: httpx.AsyncClient, folder: Path
) -> None:
    await add(operator, (folder / "a.md").as_uri(), "The anchor is red.")
    done = await sync(cli, folder)
    assert (len(done.added), len(done.replaced), done.unchanged) == (2, 0, 1)


async def test_a_file_that_cannot_be_read_keeps_its_document_and_is_reported(
    cli: GatewayClient, operator: httpx.AsyncClient, folder: Path
) -> None:
    await sync(cli, folder)
    (folder / "a.md").write_bytes(b"\x00\xff\xfe\x00binary\x00")
    with (folder / "huge.txt").open("wb") as huge:
        huge.truncate(MAX_DOCUMENT_BYTES + 1)
    done = await sync(cli, folder)
    assert sorted(Path(one.path).name for one in done.failed) == ["a.md", "huge.txt"]
    assert done.removed == []
    assert len(await found(operator, "anchor")) == 1


async def test_an_empty_folder_does_not_take_every_document_away(cli: GatewayClient, folder: Path) -> None:
    await sync(cli, folder)
    for file in ("a.md", "b.txt", "deep er/ç%20.md"):
        (folder / file).unlink()
    plan = await planned(cli, folder)
    with pytest.raises(CliError, match="3 would be removed"):
        check_not_emptied(plan, SyncedFolder(folder, None))


def test_the_command_and_the_gateway_have_one_limit() -> None:
    assert MAX_DOCUMENT_BYTES == documents.MAX_DOCUMENT_BYTES


async def test_a_citation_of_a_workbook_names_sheet_and_row_and_what_is_hidden_is_reported(
    operator: httpx.AsyncClient,
) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("Crew").append(["Odalys", "Pilot"])
    book.create_sheet("Secret").append(["Bertrand", "Smuggler"])
    book["Secret"].sheet_state = "hidden"
    stream = BytesIO()
    book.save(stream)
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    added = await operator.post("/v1/documents", files={"file": ("crew.xlsx", stream.getvalue(), kind)})
    assert added.status_code == 201, added.text
    assert added.json()["skipped"] == ["sheet Secret: is hidden"]
    [passage] = (await operator.get("/v1/documents/search", params={"q": "Odalys"})).json()["passages"]
    assert passage["source"]["place"] == "sheet Crew, row 1"
    assert await found(operator, "smuggler") == []
