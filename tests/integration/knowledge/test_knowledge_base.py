"""The knowledge base on a real PostgreSQL, as the application's role."""

import asyncio
from collections.abc import Iterable

import asyncpg
import pytest

from flotilla.contracts.errors import Invalid, NotFound
from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.knowledge.split import HEADING_SEPARATOR
from flotilla.postgres import Pool, tenant_transaction
from tests.integration.knowledge.index_contents import analysed_passages, postings
from tests.support.postgres import Database

CATS = b"# Cats\n\nCats sleep all day on the sofa.\n\n## Food\n\nThey eat fish and mice.\n"
DOGS = b"<h1>Dogs</h1><p>Dogs sleep in the kennel and eat bones.</p>"


@pytest.fixture
def knowledge(pool: Pool) -> KnowledgeBase:
    return KnowledgeBase(pool)


def cats(content: bytes = CATS, uri: str = "cats.md") -> UploadedDocument:
    return UploadedDocument(uri=uri, content=content)


async def assert_consistent(pool: Pool, tenant_id: str = "acme") -> None:
    async with tenant_transaction(pool, tenant_id) as connection:
        assert await postings(connection) == await analysed_passages(connection)
        total = await connection.fetchval("SELECT passages FROM flotilla.knowledge_bases")
        assert total == await connection.fetchval("SELECT indexed_passages FROM flotilla.knowledge_bases")
        assert total == await connection.fetchval("SELECT count(*) FROM flotilla.passages")
        assert total == await connection.fetchval("SELECT sum(passages) FROM flotilla.documents")


async def test_a_question_finds_the_passage_that_answers_it(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats())
    await knowledge.add("acme", UploadedDocument(uri="dogs.html", content=DOGS))
    passages = await knowledge.search("acme", "What do cats eat?")
    assert passages[0].text == "Food\n\nThey eat fish and mice."
    assert passages[0].source.title == f"Cats{HEADING_SEPARATOR}Food"
    assert passages[0].source.uri == "cats.md"
    assert [p.source.score for p in passages] == sorted((p.source.score for p in passages), reverse=True)


async def test_a_source_is_a_place_in_the_documents_text(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats())
    for passage in await knowledge.search("acme", "cats fish sofa"):
        text = await knowledge.text("acme", passage.source.document_id)
        assert text[passage.source.start : passage.source.end] == passage.text


async def test_words_are_found_in_any_form_and_names_in_parts_and_whole(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats(b"Call `os.path.join` for joining paths. Nothing else will do it."))
    for query in ("joined", "os.path.join", "path"):
        assert len(await knowledge.search("acme", query)) == 1


@pytest.mark.parametrize("query", ["Kündigung", "Wie lang ist die Kündigung?", "Lagerhaus"])
async def test_a_word_finds_the_compounds_that_begin_with_it(knowledge: KnowledgeBase, query: str) -> None:
    text = "# Verträge\n\nDie Kündigungsfristen der Lagerhausbetreiber betragen neun Wochen."
    await knowledge.add("acme", UploadedDocument(uri="vertrag.md", content=text.encode()))
    assert [passage.source.uri for passage in await knowledge.search("acme", query)] == ["vertrag.md"]


async def test_a_word_that_stands_alone_does_not_find_its_compounds(knowledge: KnowledgeBase) -> None:
    for word in ("Kündigung", "Kündigungsfrist"):
        text = f"Die {word} ist ein Thema, über das wir hier heute nicht mehr sprechen."
        await knowledge.add("acme", UploadedDocument(uri=word, content=text.encode(), media_type="text/plain"))
    assert [passage.source.uri for passage in await knowledge.search("acme", "Kündigung")] == ["Kündigung"]


@pytest.mark.parametrize("query", ["zebra", "the of and", "", "\x00", "?!", "' OR 1=1 --"])
async def test_a_question_without_a_known_word_finds_nothing(knowledge: KnowledgeBase, query: str) -> None:
    await knowledge.add("acme", cats())
    assert await knowledge.search("acme", query) == []


async def test_an_empty_knowledge_base_answers_nothing(knowledge: KnowledgeBase) -> None:
    assert await knowledge.search("acme", "cats") == []
    assert await knowledge.list("acme") == []


async def test_a_word_that_no_document_has_lowers_the_score(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats())
    sure = await knowledge.search("acme", "fish")
    unsure = await knowledge.search("acme", "fish quasar")
    assert sure[0].source.score >= 1 > unsure[0].source.score > 0


@pytest.mark.parametrize("k", [0, 51])
async def test_a_number_of_passages_out_of_bounds_is_refused(knowledge: KnowledgeBase, k: int) -> None:
    with pytest.raises(Invalid, match="1 to 50"):
        await knowledge.search("acme", "cats", k)


async def test_a_query_of_a_megabyte_is_refused(knowledge: KnowledgeBase) -> None:
    with pytest.raises(Invalid, match="characters"):
        await knowledge.search("acme", "x" * 1_000_000)


async def test_the_same_content_again_writes_nothing(knowledge: KnowledgeBase, pool: Pool) -> None:
    first = await knowledge.add("acme", cats())
    again = await knowledge.add("acme", cats())
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (again.document_id, again.passages, again.title) == (first.document_id, 2, "Cats")
    [document] = await knowledge.list("acme")
    assert document.updated_at == document.created_at


async def test_other_content_under_the_same_uri_replaces_it(knowledge: KnowledgeBase, pool: Pool) -> None:
    first = await knowledge.add("acme", cats())
    second = await knowledge.add("acme", cats(b"# Cats\n\nCats drink milk."))
    assert second.document_id == first.document_id
    assert await knowledge.search("acme", "fish") == []
    assert len(await knowledge.search("acme", "milk")) == 1
    await assert_consistent(pool)


async def test_a_new_title_counts_as_a_change(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats())
    renamed = await knowledge.add("acme", UploadedDocument(uri="cats.md", content=CATS, title="Felines"))
    assert (renamed.unchanged, renamed.title) == (False, "Felines")
    assert (await knowledge.search("acme", "felines"))[0].source.title == f"Felines{HEADING_SEPARATOR}Cats"


async def test_what_can_not_be_read_leaves_the_old_document_as_it_was(knowledge: KnowledgeBase, pool: Pool) -> None:
    await knowledge.add("acme", cats())
    with pytest.raises(Invalid, match="binary"):
        await knowledge.add("acme", cats(b"\x00\x01"))
    assert len(await knowledge.search("acme", "fish")) == 1
    await assert_consistent(pool)


@pytest.mark.parametrize("uri", ["", "  ", "x" * 1001, "a\x00b"])
async def test_a_uri_that_can_not_be_an_identity_is_refused(knowledge: KnowledgeBase, uri: str) -> None:
    with pytest.raises(Invalid, match="uri"):
        await knowledge.add("acme", cats(uri=uri))


async def test_a_tenant_finds_nothing_of_another(knowledge: KnowledgeBase) -> None:
    added = await knowledge.add("acme", cats())
    assert await knowledge.search("globex", "cats") == []
    assert await knowledge.list("globex") == []
    with pytest.raises(NotFound):
        await knowledge.text("globex", added.document_id)
    again = await knowledge.add("globex", cats())
    assert not again.unchanged
    assert again.document_id != added.document_id


async def test_statistics_of_one_tenant_do_not_move_the_scores_of_another(knowledge: KnowledgeBase) -> None:
    await knowledge.add("acme", cats())
    before = await knowledge.search("acme", "cats fish")
    for n in range(5):
        await knowledge.add("globex", cats(b"Fish, fish, nothing but fish here. %d" % n, uri=f"{n}.md"))
    assert await knowledge.search("acme", "cats fish") == before


async def test_writers_at_the_same_time_lose_nothing(knowledge: KnowledgeBase, pool: Pool) -> None:
    contents = [f"# Fish {n}\n\nFish number {n} swims with all the other fish.".encode() for n in range(12)]
    added = await asyncio.gather(*(knowledge.add("acme", cats(c, uri=f"{n}.md")) for n, c in enumerate(contents)))
    assert len({a.document_id for a in added}) == 12
    await assert_consistent(pool)


async def test_writers_of_one_document_leave_one_of_theirs(knowledge: KnowledgeBase, pool: Pool) -> None:
    contents = [f"Version {n} of the story is about fish.".encode() for n in range(8)]
    added = await asyncio.gather(*(knowledge.add("acme", cats(content)) for content in [*contents, *contents]))
    assert len({a.document_id for a in added}) == 1
    assert len(await knowledge.search("acme", "story")) == 1
    await assert_consistent(pool)


async def test_a_search_meanwhile_sees_the_old_passages_or_the_new_ones(knowledge: KnowledgeBase) -> None:
    old, new = (cats(b"# Story\n\n" + b"".join(_sections(word))) for word in (b"fish", b"milk"))
    await knowledge.add("acme", old)
    seen: set[frozenset[str]] = set()

    async def watch(done: asyncio.Event) -> None:
        while not done.is_set():
            seen.add(frozenset(_kind(p.text) for p in await knowledge.search("acme", "story part", 50)))

    done = asyncio.Event()
    watcher = asyncio.create_task(watch(done))
    for _ in range(5):
        await knowledge.add("acme", new)
        await knowledge.add("acme", old)
    done.set()
    await watcher
    assert seen <= {frozenset({"fish"}), frozenset({"milk"})}


def _sections(word: bytes) -> Iterable[bytes]:
    return (b"## Part %d\n\nThe %s of this part. " % (n, word) for n in range(20))


def _kind(text: str) -> str:
    return "fish" if "fish" in text else "milk"


async def test_documents_are_listed_page_by_page(knowledge: KnowledgeBase) -> None:
    for n in range(5):
        await knowledge.add("acme", cats(f"Text number {n} of five.".encode(), uri=f"{n}.md"))
    first = await knowledge.list("acme", limit=3)
    rest = await knowledge.list("acme", cursor=first[-1].uri, limit=3)
    assert [document.uri for document in first + rest] == [f"{n}.md" for n in range(5)]
    assert (first[0].title, first[0].media_type, first[0].passages) == ("0.md", "text/markdown", 1)


async def test_a_text_full_of_odd_characters_is_kept_as_it_is(knowledge: KnowledgeBase) -> None:
    odd = "Weißbier 🍺 costs 3,50 € — \\N{x} %s {y} 'quoted' \"twice\" \u202e and so on"
    added = await knowledge.add("acme", cats(odd.encode(), uri="ö d d.txt"))
    assert await knowledge.text("acme", added.document_id) == odd
    assert len(await knowledge.search("acme", "weißbier")) == 1


async def test_posting_lists_are_read_by_their_key_under_row_level_security(
    database: Database, knowledge: KnowledgeBase
) -> None:
    """A plan that filters instead would grow with the knowledge base, and with the other tenants'."""
    await knowledge.add("acme", cats())
    connection = await asyncpg.connect(database.dsn())
    try:
        await connection.execute("SELECT set_config('flotilla.tenant_id', 'acme', false)")
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT term, block, postings FROM flotilla.postings "
            "WHERE tenant_id = 'acme' AND term = ANY ('{cat,fish}'::text[])"
        )
    finally:
        await connection.close()
    text = "\n".join(row[0] for row in plan)
    assert "postings_pkey" in text
    assert "(term = ANY" in text.split("Index Cond:")[1]
