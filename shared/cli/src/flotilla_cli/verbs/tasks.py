"""`flotilla tasks`: any chain of agents, by routing slip."""

import json
from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Tasks: any chain of agents, each handing its result to the next.")


@verb(
    app,
    "submit",
    epilog=examples_epilog(
        """flotilla tasks submit --step research --step write --input '{"query": "Who may approve a refund?"}'""",
        "flotilla tasks submit --step translate --input @letter.json --session s1",
    ),
)
def submit_task(
    call: VerbCall,
    step: Annotated[list[str], typer.Option("--step", metavar="AGENT", help="An agent, in order; repeatable.")],
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="The first agent's input: a JSON object, or @FILE.")
    ],
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of its own.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="How long each agent may work at it. Default: as the agent says."),
    ] = None,
) -> None:
    """Start a pipeline; its result is the last agent's."""
    from flotilla_cli.arguments import parse_json_object

    body: dict[str, Any] = {"steps": step, "input": parse_json_object(input_json)}
    if session:
        body["session_id"] = session
    if timeout is not None:
        body["timeout_s"] = timeout
    answer = call.gateway.post("/tasks", body)
    call.show(answer, lambda: _print_submitted(call, answer, step))


def _print_submitted(call: VerbCall, answer: dict[str, Any], steps: list[str]) -> None:
    print_fields(answer)
    present = {agent["name"] for agent in call.gateway.get("/agents")["agents"] if agent["instances"]}
    if absent := [step for step in steps if step not in present]:
        # Not refused: an agent may be at zero instances.
        print_notice(
            f"No instance of {', '.join(absent)} is running: the task waits for one. See: flotilla agents list"
        )
    print_notice(f"Its result: flotilla tasks get {answer['task_id']}")


@verb(
    app,
    "list",
    epilog=examples_epilog("flotilla tasks list --status running", "flotilla tasks list --agent translate -o json"),
)
def list_tasks(
    call: VerbCall,
    *,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only of this session.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only of this person.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only with this agent among the steps.")] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", help="Only these: pending, running, waiting_for_approval, success, error, timeout, cancelled."
        ),
    ] = None,
    limit: Limit = 50,
) -> None:
    """List tasks, newest first."""
    only = {"session_id": session, "user_id": user, "agent": agent, "status": status}
    page = call.gateway.list_all_pages("/tasks", "tasks", limit, **only)
    call.print_listing(page, "tasks", _TASKS, "No task yet; start one with: flotilla tasks submit")


_TASKS = (
    TableColumn("task", "task_id"),
    TableColumn("steps", lambda task: " → ".join(task["steps"])),
    TableColumn("session", "session_id"),
    TableColumn("status", "status"),
    TableColumn("created", lambda task: age(task["created_at"])),
)


@verb(app, "cancel", epilog=examples_epilog("flotilla tasks cancel 0197…"))
def cancel_task(
    call: VerbCall, task_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.", show_default=False)]
) -> None:
    """Cancel a task, and have its agents stop."""
    answer = call.gateway.post(f"/tasks/{task_id}/cancel")
    said = "was cancelled already" if answer["status"] == "cancelled" else "is being cancelled"
    call.show(answer, lambda: print_notice(f"Task {task_id} {said}.", style=None))


@verb(app, "get", epilog=examples_epilog("flotilla tasks get 0197… -o json"))
def get_task(
    call: VerbCall, task_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.", show_default=False)]
) -> None:
    """Show a pipeline: its status, and its result once it is done."""
    task = call.gateway.get(f"/tasks/{task_id}")
    call.show(task, lambda: _print_task(task))


def _print_task(task: dict[str, Any]) -> None:
    from flotilla_cli.answers import failure_reason, print_answer_details

    print_fields({name: value for name, value in task.items() if name not in ("result", "error")})
    if task.get("error"):
        say(failure_reason(task), style="red")
    result = task.get("result")
    if isinstance(result, dict) and "answer" in result:
        say()
        say(result["answer"])
        print_answer_details(result)
    elif result is not None:
        say(json.dumps(result, indent=2, ensure_ascii=False))
