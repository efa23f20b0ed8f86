"""Each framework's example waits for people while every process dies and is started again; then people decide."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from tests.e2e.fleet import Fleet
from tests.support.complaints import EXAMPLES, NAMES, Outside, hash_of, outside, python_of
from tests.support.scratch import open_folder
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]

SCENES = ("approved", "lowered", "refused", "repriced")
DEARER = 7
"""Cents."""
POLICY = """
version = "refunds"
extends = "builtin:local"
"""
EDITABLE = """
[actions."refunds-{}.refund"]
risk = "medium"
editable_args = ["cents"]
"""


@dataclass(frozen=True)
class Complaint:
    """One customer's, of which an agent has asked people for a refund."""

    example: str
    scene: str
    number: int
    task_id: str

    @property
    def order(self) -> str:
        return f"A{self.number}"

    @property
    def cents(self) -> int:
        """The price when it was asked for."""
        return 100 * self.number


@dataclass
class Town:
    """The fleet, its outside, and what was asked of it before everything died."""

    fleet: Fleet
    outside: Outside
    complaints: list[Complaint]

    def of(self, example: str, scene: str) -> Complaint:
        return next(one for one in self.complaints if (one.example, one.scene) == (example, scene))

    def refunds(self, complaint: Complaint) -> list[int]:
        """The cents that the shop was asked to pay, each time that it was."""
        asked = self.outside.books.asked
        return [one["cents"] for one in asked if one["path"] == "refunds" and one["order"] == complaint.order]


@pytest.fixture(scope="module")
def beyond() -> Iterator[Outside]:
    """The model and the shop, which outlive the machine."""
    with outside(delay_s=0.0) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(beyond: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A local stack with the agent of each example."""
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(POLICY + "".join(EDITABLE.format(name) for name in NAMES) + "# end\n")
    for name in NAMES:
        python_of(name)  # says how to make an environment that is missing
    with open_folder("restarted") as home:
        environment = {**beyond.environment, "FLOTILLA_APPROVAL_POLICY": str(policy)}
        started = Fleet(home, environment, agents=tuple(EXAMPLES / name for name in NAMES))
        try:
            started.up()
            yield started
        finally:
            started.down()


@pytest.fixture(scope="module")
def town(fleet: Fleet, beyond: Outside) -> Town:
    """Every complaint waits for people; then every process was killed and started again, and some prices have risen."""
    return asyncio.run(restarted(fleet, beyond))


async def restarted(fleet: Fleet, beyond: Outside) -> Town:
    async with fleet.client("admin") as service:
        complaints = [
            await complain(service, name, scene, 10 * place + number)
            for place, name in enumerate(NAMES, 1)
            for number, scene in enumerate(SCENES)
        ]
    async with fleet.client("bob") as bob:

        async def all_wait() -> bool:
            return len(await inbox(bob)) == len(complaints)

        await eventually(all_wait, timeout_s=400)
    town = Town(fleet, beyond, complaints)
    assert not any(town.refunds(one) for one in complaints)
    await fleet.kill_everything()
    for one in complaints:
        if one.scene == "repriced":
            beyond.books.prices[one.order] = one.cents + DEARER
    fleet.up()
    return town


async def complain(service: httpx.AsyncClient, example: str, scene: str, number: int) -> Complaint:
    text = f"My lamp is broken. The order is A{number}"
    body = {"steps": [f"refunds-{example}"], "input": {"text": text}}
    answer = (await service.post("/v1/tasks", json=body)).raise_for_status()
    return Complaint(example, scene, number, answer.json()["task_id"])


async def inbox(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/v1/approvals", params={"status": "pending", "limit": 200})
    return cast("list[dict[str, Any]]", answer.raise_for_status().json()["approvals"])


@pytest.fixture
async def alice(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    """Who may change what is asked for; a service asked."""
    async with town.fleet.client("alice") as client:
        yield client


@pytest.fixture
async def bob(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    """Who decides."""
    async with town.fleet.client("bob") as client:
        yield client


async def asked(bob: httpx.AsyncClient, complaint: Complaint, cents: int) -> dict[str, Any]:
    """The refund of so many cents that waits for people."""

    async def there() -> dict[str, Any] | None:
        wanted = {"order": complaint.order, "cents": cents}
        return next((one for one in await inbox(bob) if one["args"] == wanted), None)

    return cast("dict[str, Any]", await eventually(there, timeout_s=300))


async def decide(person: httpx.AsyncClient, approval: dict[str, Any], decision: str, **fields: Any) -> None:
    body = {"decision": decision, "content_hash": approval["content_hash"], "reason": "read it", **fields}
    answer = await person.post(f"/v1/approvals/{approval['approval_id']}/decision", json=body)
    assert answer.is_success, answer.text


async def settled(town: Town, complaint: Complaint) -> str:
    """What the agent said in the end."""
    async with town.fleet.client("admin") as service:

        async def over() -> dict[str, Any] | None:
            task: dict[str, Any] = (await service.get(f"/v1/tasks/{complaint.task_id}")).json()
            return task if task["finished_at"] else None

        task = await eventually(over, timeout_s=400)
    assert task["status"] == "success", task["error"]
    return str(task["result"]["text"])


each_example = pytest.mark.parametrize("example", NAMES)


@each_example
async def test_what_people_approve_runs_once_as_they_approved_it(
    town: Town, alice: httpx.AsyncClient, bob: httpx.AsyncClient, example: str
) -> None:
    as_asked, lowered = town.of(example, "approved"), town.of(example, "lowered")
    await decide(bob, await asked(bob, as_asked, as_asked.cents), "approve")
    less = {"order": lowered.order, "cents": lowered.cents - 1}
    await decide(alice, await asked(alice, lowered, lowered.cents), "edit", args=less)
    await decide(bob, await asked(bob, lowered, lowered.cents - 1), "approve")
    assert (await settled(town, as_asked)).startswith(f"Order {as_asked.order}: refunds-")
    assert (await settled(town, lowered)).startswith(f"Order {lowered.order}: refunds-")
    assert town.refunds(as_asked) == [as_asked.cents]
    assert town.refunds(lowered) == [lowered.cents - 1]


@each_example
async def test_what_people_refuse_never_runs(town: Town, bob: httpx.AsyncClient, example: str) -> None:
    complaint = town.of(example, "refused")
    await decide(bob, await asked(bob, complaint, complaint.cents), "reject")
    assert "not approved" in await settled(town, complaint)
    assert town.refunds(complaint) == []


@each_example
async def test_an_approval_lets_no_other_arguments_run(town: Town, bob: httpx.AsyncClient, example: str) -> None:
    complaint = town.of(example, "repriced")
    await decide(bob, await asked(bob, complaint, complaint.cents), "approve")
    # The agent reads the new price, so its model wants another refund: people are asked about that one, too.
    dearer = await asked(bob, complaint, complaint.cents + DEARER)
    assert town.refunds(complaint) == []
    await decide(bob, dearer, "reject")
    assert "not approved" in await settled(town, complaint)
    assert town.refunds(complaint) == []


@each_example
async def test_no_answer_is_bought_again_and_nothing_else_done_twice(town: Town, example: str) -> None:
    mine = [one for one in town.complaints if one.example == example]
    orders = {one.order for one in mine}
    products = {f"lamp-{one.number}" for one in mine}
    done = [(one["path"], one.get("order", one.get("product"))) for one in town.outside.books.asked]
    before = Counter(one for one in done if one[0] != "refunds" and one[1] in orders | products)
    assert (len(before), set(before.values())) == (2 * len(mine), {1})
    bought = Counter(hash_of(body) for body in town.outside.asked if question_of(body).rpartition(" ")[2] in orders)
    assert len(bought) >= 3 * len(mine)
    assert set(bought.values()) == {1}


def question_of(body: dict[str, Any]) -> str:
    """The complaint that a request to the model is about."""
    content = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
