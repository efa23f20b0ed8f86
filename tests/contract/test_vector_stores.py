"""The same cases for every place that vectors are kept in: PostgreSQL's own, and stores outside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.bus.connection import execute_redis_command
from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.identity import user_name
from flotilla.knowledge import KnowledgeBase, UploadedDocument, embedding
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.knowledge.embedding_outside import ExternalPassageEmbedding
from flotilla.knowledge.redis_vectors import KEYS, RedisVectors, open_vector_store
from flotilla.knowledge.vector_store import Near
from flotilla.postgres import ITSELF, Pool, Viewer, acting_as, tenant_transaction
from flotilla_devstack import RunningStack
from tests.support.spare_redis import SpareServers

SYNONYMS = (("cat", "feline", "kitten"), ("car", "vehicle", "engine"), ("bone", "skeleton"))
NEVER = asyncio.Event()
ALICE, BOB = user_name("flotilla", "alice"), user_name("flotilla", "bob")
_NOTES = "SELECT count(*) FROM flotilla.outside_vectors"


class Meaning:
    """A model that knows a few synonyms: one dimension for each meaning."""

    def __init__(self, name: str = "meaning@1") -> None:
        self.name = name
        self.embedded = 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return [[*(float(any(word in text.lower() for word in words)) for words in SYNONYMS), 0.1] for text in texts]


@dataclass
class Place:
    """A knowledge base whose vectors are in one place."""

    knowledge: KnowledgeBase
    job: PassageEmbedding
    model: Meaning

    async def add(self, tenant_id: str, **documents: str) -> dict[str, str]:
        """Add documents and embed them; return the ids by name."""
        added = [await self.knowledge.add(tenant_id, _upload(name, text)) for name, text in documents.items()]
        await self.job.embed_new_passages(NEVER)
        return {one.uri: one.document_id for one in added}

    async def found(self, query: str, tenant_id: str = "acme", k: int = 5) -> list[str]:
        return [one.source.uri for one in await self.knowledge.search(tenant_id, query, k)]


def _upload(name: str, text: str, **more: Any) -> UploadedDocument:
    return UploadedDocument(uri=name, content=text.encode(), media_type="text/plain", **more)


@pytest.fixture(scope="module")
def redis_8_url(stack: RunningStack) -> Iterator[str]:
    with stack.extra_redis("falkordb") as server:
        yield server.url


@pytest.fixture
def valkey_url(spare_redis: SpareServers) -> Iterator[str]:
    """A server without vector sets, as Redis before 8 is."""
    with spare_redis.server("valkey") as server:
        yield server.url


@pytest.fixture
async def redis(redis_8_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_8_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
def outside(pool: Pool, redis: Redis) -> Place:
    model, store = Meaning(), RedisVectors(redis)
    return Place(
        KnowledgeBase(pool, embedder=model, vectors=store), ExternalPassageEmbedding(pool, model, store), model
    )


@pytest.fixture(params=["postgres", "redis"])
def place(request: pytest.FixtureRequest, pool: Pool) -> Place:
    if request.param == "redis":
        outside: Place = request.getfixturevalue("outside")
        return outside
    model = Meaning()
    return Place(KnowledgeBase(pool, embedder=model), PassageEmbedding(pool, model), model)


async def _vectors(redis: Redis) -> int:
    command: Callable[..., Awaitable[int]] = redis.execute_command
    return sum([await command("VCARD", key) for key in await redis.keys(f"{KEYS}*")])


async def _notes(pool: Pool, tenant_id: str = "acme") -> int:
    async with tenant_transaction(pool, tenant_id) as connection:
        return int(await connection.fetchval(_NOTES))


async def test_a_passage_is_found_by_what_it_means(place: Place) -> None:
    await place.add("acme", sofa="A feline sleeps all day.", motor="The engine needs oil.")
    assert (await place.found("kitten"))[0] == "sofa"
    assert (await place.found("car"))[0] == "motor"
    [nearest, *_] = await place.knowledge.search("acme", "kitten")
    assert nearest.by_meaning is not None
    assert nearest.by_meaning > 0.9


async def test_nothing_is_found_before_all_is_embedded_and_nothing_is_embedded_twice(place: Place) -> None:
    await place.knowledge.add("acme", _upload("sofa", "A feline sleeps."))
    assert await place.found("kitten") == []
    assert [await place.job.embed_new_passages(NEVER) for _ in range(2)] == [1, 0]
    assert await place.found("kitten") == ["sofa"]


async def test_a_removed_document_is_found_nowhere_at_once(place: Place) -> None:
    ids = await place.add("acme", sofa="A feline sleeps.", bed="A cat dreams.")
    await place.knowledge.remove("acme", ids["sofa"])
    assert await place.found("kitten") == ["bed"]
    await place.add("acme", bed="The engine needs oil.")
    assert await place.found("kitten") == ["bed"]
    assert await place.found("feline") == ["bed"]


async def test_a_tenant_finds_nothing_of_another(place: Place) -> None:
    await place.add("globex", **{f"cat{number}": f"Cat number {number}." for number in range(40)})
    await place.add("acme", motor="The engine of a vehicle.")
    assert await place.found("kitten") == ["motor"]
    assert await place.found("kitten", "initech") == []


async def _due(pool: Pool, place: Place) -> set[str]:
    function = "tenants_to_store" if isinstance(place.job, ExternalPassageEmbedding) else "tenants_to_embed"
    return {row[0] for row in await pool.fetch(f"SELECT flotilla.{function}($1)", place.job.index)}


async def test_only_tenants_whose_passages_changed_are_looked_at(place: Place, pool: Pool) -> None:
    ids = await place.add("acme", sofa="A feline sleeps.")
    await place.add("globex", motor="The engine needs oil.")
    assert await _due(pool, place) == set()
    await place.knowledge.add("acme", _upload("sofa", "A feline sleeps."))  # unchanged
    assert await _due(pool, place) == set()
    await place.knowledge.add("acme", _upload("sofa", "A feline dreams."))  # as many passages as before
    assert await _due(pool, place) == {"acme"}
    await place.job.embed_new_passages(NEVER)
    await place.knowledge.remove("acme", ids["sofa"])
    assert await _due(pool, place) == {"acme"}
    await place.job.embed_new_passages(NEVER)
    assert await _due(pool, place) == set()
    assert await _due(pool, Place(place.knowledge, _job_with(place.job, Meaning("meaning@2")), place.model)) == {
        "acme",
        "globex",
    }


async def test_what_comes_while_the_rest_is_embedded_is_embedded_next(pool: Pool) -> None:
    class Overtaken(Meaning):
        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            if not self.embedded:
                await knowledge.add("acme", _upload("late", "A kitten."))
            return await super().embed(texts)

    knowledge, model = KnowledgeBase(pool), Overtaken()
    await knowledge.add("acme", _upload("sofa", "A feline sleeps."))
    job = PassageEmbedding(pool, model)
    await job.embed_new_passages(NEVER)
    await job.embed_new_passages(NEVER)
    assert model.embedded == 2
    assert await _due(pool, Place(knowledge, job, model)) == set()


async def test_a_kill_while_vectors_of_a_former_model_are_removed_leaves_the_rest_to_the_next_round(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowledge, former = KnowledgeBase(pool), PassageEmbedding(pool, Meaning())
    await knowledge.add("acme", _upload("sofa", "A feline sleeps."))
    await former.embed_new_passages(NEVER)
    model = Meaning("meaning@2")
    job = PassageEmbedding(pool, model)
    with monkeypatch.context() as killed:
        killed.setattr(
            embedding, "_FORGET_OTHERS", "SELECT 1 / 0 FROM flotilla.tenants_to_embed($2) WHERE $1 <> $2 OR $3 > 0"
        )
        with pytest.raises(asyncpg.PostgresError):
            await job.embed_new_passages(NEVER)
    assert await _due(pool, Place(knowledge, job, model)) == {"acme"}
    await job.embed_new_passages(NEVER)
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval("SELECT array_agg(model) FROM flotilla.passage_embeddings") == [job.index]


async def test_readers_alone_find_their_documents_and_others_still_find_theirs(place: Place) -> None:
    for number in range(60):
        await place.knowledge.add("acme", _upload(f"secret{number}", f"Cat {number} of Alice.", readers=(ALICE,)))
    await place.add("acme", open="A vehicle for the kitten.")
    with acting_as(Viewer(names=(BOB,))):
        assert await place.found("feline", k=1) == ["open"]
    with acting_as(Viewer(names=(ALICE,))):
        assert (await place.found("feline", k=1))[0].startswith("secret")
    with acting_as(ITSELF):
        assert await place.job.embed_new_passages(NEVER) == 0


async def test_another_model_serves_once_everything_is_embedded_by_it(place: Place, pool: Pool) -> None:
    await place.add("acme", sofa="A feline sleeps.")
    newer = Meaning("meaning@2")
    with_newer = Place(_with_model(place.knowledge, newer), _job_with(place.job, newer), newer)
    assert await with_newer.found("kitten") == []
    assert await place.found("kitten") == ["sofa"]
    assert await with_newer.job.embed_new_passages(NEVER) == 1
    assert await with_newer.found("kitten") == ["sofa"]


def _with_model(knowledge: KnowledgeBase, model: Meaning) -> KnowledgeBase:
    return KnowledgeBase(knowledge._pool, embedder=model, vectors=knowledge._vectors)


def _job_with(job: PassageEmbedding, model: Meaning) -> PassageEmbedding:
    if isinstance(job, ExternalPassageEmbedding):
        return ExternalPassageEmbedding(job._pool, model, job._store)
    return PassageEmbedding(job._pool, model)


async def test_the_store_forgets_what_was_removed_and_former_models(outside: Place, pool: Pool, redis: Redis) -> None:
    ids = await outside.add("acme", sofa="A feline sleeps.", bed="A cat dreams.")
    await outside.add("globex", motor="The engine needs oil.")
    assert await _vectors(redis) == 3
    await outside.knowledge.remove("acme", ids["sofa"])
    await outside.job.embed_new_passages(NEVER)
    assert (await _vectors(redis), await _notes(pool)) == (2, 1)
    await _job_with(outside.job, Meaning("meaning@2")).embed_new_passages(NEVER)
    assert (await _vectors(redis), await _notes(pool)) == (2, 1)
    assert outside.model.embedded == 3


async def test_a_store_that_lost_its_vectors_is_filled_again(outside: Place, redis: Redis) -> None:
    await outside.add("acme", sofa="A feline sleeps.")
    await redis.flushall()
    assert await outside.found("kitten") == []
    assert await outside.job.embed_new_passages(NEVER) == 1
    assert await outside.found("kitten") == ["sofa"]


class Dying(RedisVectors):
    """A process that is killed right before or right after its next change of the store."""

    dies = ""

    async def put(self, tenant_id: str, model: str, vectors: Any) -> None:
        async with self._dying():
            await super().put(tenant_id, model, vectors)

    async def remove_vectors(self, tenant_id: str, model: str, passages: Any) -> None:
        async with self._dying():
            await super().remove_vectors(tenant_id, model, passages)

    @asynccontextmanager
    async def _dying(self) -> AsyncIterator[None]:
        if self.dies == "before":
            raise ConnectionResetError("killed")
        yield
        if self.dies == "after":
            raise ConnectionResetError("killed")


@pytest.mark.parametrize("dies", ["before", "after"])
async def test_a_job_that_dies_at_the_store_is_finished_by_the_next(pool: Pool, redis: Redis, dies: str) -> None:
    model, store = Meaning(), Dying(redis)
    place = Place(
        KnowledgeBase(pool, embedder=model, vectors=store), ExternalPassageEmbedding(pool, model, store), model
    )
    added = await place.knowledge.add("acme", _upload("sofa", "A feline sleeps."))
    store.dies = dies
    with pytest.raises(ConnectionResetError):
        await place.job.embed_new_passages(NEVER)
    await place.knowledge.remove("acme", added.document_id)
    with pytest.raises(ConnectionResetError):
        await place.job.embed_new_passages(NEVER)
    store.dies = ""
    await place.job.embed_new_passages(NEVER)
    assert (await _vectors(redis), await _notes(pool)) == (0, 0)


class Overtaken(RedisVectors):
    """Another replica removes what is gone right before this one stores or counts."""

    other: Place
    removed = ""

    async def put(self, tenant_id: str, model: str, vectors: Any) -> None:
        await self._overtake()
        await super().put(tenant_id, model, vectors)

    async def count_vectors(self, tenant_id: str, model: str) -> int:
        await self._overtake()
        return await super().count_vectors(tenant_id, model)

    async def _overtake(self) -> None:
        if self.removed:
            await self.other.knowledge.remove("acme", self.removed)
            self.removed = ""
            await self.other.job.embed_new_passages(NEVER)


@pytest.fixture
def overtaken(pool: Pool, redis: Redis, outside: Place) -> Place:
    model, store = outside.model, Overtaken(redis)
    store.other = outside
    return Place(
        KnowledgeBase(pool, embedder=model, vectors=store), ExternalPassageEmbedding(pool, model, store), model
    )


async def test_a_vector_that_is_stored_after_its_passage_was_removed_goes_too(
    overtaken: Place, pool: Pool, redis: Redis
) -> None:
    added = await overtaken.knowledge.add("acme", _upload("sofa", "A feline sleeps."))
    _store_of(overtaken).removed = added.document_id
    for _ in range(2):
        await overtaken.job.embed_new_passages(NEVER)
    assert (await _vectors(redis), await _notes(pool)) == (0, 0)


async def test_vectors_that_another_replica_removes_meanwhile_are_not_lost(overtaken: Place) -> None:
    ids = await overtaken.add("acme", sofa="A feline sleeps.", bed="A cat dreams.")
    _store_of(overtaken).removed = ids["sofa"]
    assert await overtaken.job.embed_new_passages(NEVER) == 0
    assert overtaken.model.embedded == 2


def _store_of(place: Place) -> Overtaken:
    assert isinstance(place.job, ExternalPassageEmbedding)
    assert isinstance(place.job._store, Overtaken)
    return place.job._store


class Lying(RedisVectors):
    """Answers with what it likes."""

    answers: Near

    async def find_nearest(self, tenant_id: str, model: str, vector: Sequence[float], most: int) -> Near:
        return self.answers


async def test_a_store_that_lies_shows_nobody_what_they_may_not_read(pool: Pool, redis: Redis) -> None:
    model, store = Meaning(), Lying(redis)
    place = Place(
        KnowledgeBase(pool, embedder=model, vectors=store), ExternalPassageEmbedding(pool, model, store), model
    )
    await place.knowledge.add("acme", _upload("secret", "The cat of Alice.", readers=(ALICE,)))
    await place.add("globex", theirs="A kitten of Globex.")
    await place.add("acme", open="A vehicle.")
    store.answers = [(number, 1.0) for number in range(200)] * 2
    with acting_as(Viewer(names=(BOB,))):
        assert await place.found("feline") == ["open"]


@pytest.mark.parametrize("answer", [[b"x", b"1"], [b"1", b"nan"], [b"9" * 30, b"1"], [b"1", b"7"], [b"1"]])
async def test_an_answer_that_is_none_leaves_the_search_to_words(
    outside: Place, redis: Redis, answer: list[bytes]
) -> None:
    await outside.add("acme", sofa="A feline sleeps.", bed="A cat dreams.")

    class Garbage(RedisVectors):
        async def _all(self, commands: Any) -> list[Any]:
            return [answer]

    with pytest.raises(RetryLater):
        await Garbage(redis).find_nearest("acme", "m", [1.0], 5)
    knowledge = KnowledgeBase(outside.knowledge._pool, embedder=outside.model, vectors=Garbage(redis))
    assert [one.source.uri for one in await knowledge.search("acme", "dreams")] == ["bed"]


CONNECTING = ("+auth", "+hello", "+select", "+client|setname")


async def test_the_logins_that_the_documentation_names_suffice(redis: Redis, redis_8_url: str) -> None:
    may = {"whole": ("+vadd", "+vrem", "+vsim", "+vcard", "+unlink"), "search": ("+vsim",)}
    urls = dict[str, str]()
    for user, commands in may.items():
        await execute_redis_command(redis, "ACL", "SETUSER", user, "on", ">pw", f"~{KEYS}*", *CONNECTING, *commands)
        urls[user] = (
            urlsplit(redis_8_url)._replace(netloc=f"{user}:pw@{urlsplit(redis_8_url).netloc}", path="/1").geturl()
        )
    async with connect_redis(urls["whole"]) as client, connect_redis(urls["search"]) as searching:
        store, agents = RedisVectors(client), RedisVectors(searching)
        await store.put("acme", "m", {1: [1.0, 0.0], 2: [0.0, 1.0]})
        await store.remove_vectors("acme", "m", [2])
        [(number, cosine)] = await agents.find_nearest("acme", "m", [1.0, 0.0], 5)
        assert (number, round(cosine, 2), await store.count_vectors("acme", "m")) == (1, 1.0, 1)
        with pytest.raises(RetryLater, match="permissions"):
            await agents.remove_all_vectors("acme", "m")
        await store.remove_all_vectors("acme", "m")
        assert await store.count_vectors("acme", "m") == 0


async def test_without_a_setting_vectors_are_in_postgres_and_an_older_redis_is_named(valkey_url: str) -> None:
    async with open_vector_store(KnowledgeSettings(), connect_redis) as vectors:
        assert vectors is None
    settings = KnowledgeSettings.model_validate({"vector_store_url": valkey_url})
    async with open_vector_store(settings, connect_redis) as vectors:
        assert vectors is not None
        with pytest.raises(RetryLater, match="Redis 8 or newer"):
            await vectors.count_vectors("acme", "m")
