"""How large a task's input may be: decided where it comes in, by its size as JSON in UTF-8."""

import httpx
import pytest

from flotilla.contracts.envelope import to_json
from flotilla.contracts.tasks import MAX_TASK_INPUT_BYTES
from tests.support.gateway import RunningGateway

ROOM = MAX_TASK_INPUT_BYTES - len(to_json({"text": ""}))


@pytest.mark.parametrize(("text", "count"), [("x", ROOM), ("é", ROOM // 2), ('"', ROOM // 2)], ids=["x", "é", "quote"])
async def test_largest_input_is_taken_and_one_character_more_is_refused(
    gateway: RunningGateway, operator: httpx.AsyncClient, text: str, count: int
) -> None:
    taken = await operator.post("/v1/tasks", json={"steps": ["research"], "input": {"text": text * count}})
    assert taken.status_code == 202, taken.text
    refused = await operator.post("/v1/tasks", json={"steps": ["research"], "input": {"text": text * (count + 1)}})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "#/input"
    assert f"{MAX_TASK_INPUT_BYTES} are allowed" in error["detail"]
    (row,) = await gateway.rows("SELECT count(*) FROM flotilla.pipelines")
    assert row["count"] == 1
