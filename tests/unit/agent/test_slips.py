import pytest

from flotilla.contracts.tasks import AgentTask, last_hop_id, next_hop, next_hop_id, root_task_id


@pytest.mark.parametrize(
    ("task_id", "following", "root"),
    [("t", "t~1", "t"), ("t~1", "t~2", "t"), ("run-1.answer~9", "run-1.answer~10", "run-1.answer")],
)
def test_hops_count_up_from_the_root(task_id: str, following: str, root: str) -> None:
    assert next_hop_id(task_id) == following
    assert root_task_id(task_id) == root


@pytest.mark.parametrize(("task_id", "left", "last"), [("t", 0, "t"), ("t", 2, "t~2"), ("t~1", 1, "t~2")])
def test_last_hop_is_known_from_the_start(task_id: str, left: int, last: str) -> None:
    assert last_hop_id(task_id, left) == last


def test_hop_keeps_the_try_and_the_person_at_the_root() -> None:
    task = AgentTask(
        task_id="t",
        agent="a",
        tenant_id="x",
        session_id="s",
        input={"q": 1},
        attempt=2,
        user_id="alice",
        slip=["b", "c"],
    )
    hop = next_hop(task, {"q": 0, "found": 3}, by_reference=False)
    assert (hop.agent, hop.slip, hop.attempt, hop.user_id) == ("b", ["c"], 2, "alice")
    assert hop.input == {"q": 1, "found": 3}
    far = next_hop(task, {"q": 0, "found": 3}, by_reference=True)
    assert (far.input, far.input_from) == ({"q": 1}, "t")
