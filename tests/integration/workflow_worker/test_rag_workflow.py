from flotilla.contracts.requests import RAGRequest
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import foreign_agent
from tests.support.worker import RunningWorker


async def test_a_question_is_researched_answered_and_saved(worker: RunningWorker, question: RAGRequest) -> None:
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write) as writer,
    ):
        answer = await (await worker.start_run(question)).result()
    assert answer.answer == f"The harbour master. ({question.run_id}.write)"
    assert answer.sources == [agents.SOURCE]
    assert writer.seen[0]["input_from"] == f"{question.run_id}.research"
    row = await worker.run_row(question)
    assert (row["status"], row["error"]) == ("success", None)
    assert row["started_at"] <= row["finished_at"]
    [interaction] = await worker.rows("acme", "SELECT * FROM flotilla.interactions")
    assert (interaction["user_id"], interaction["query"]) == ("alice", question.query)
    events = await worker.events("acme", question.session_id)
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    told = [event.data.get("change") or event.data.get("role") for event in events]
    assert told == ["user", "run_started", "assistant", "run_finished"]
    assert interaction["message_seq"] == 3
