"""`flotilla tools`: the tools of MCP servers, and which of them may be called."""

import difflib
import json
import sys
import time
from typing import Annotated, Any

import typer

from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Tools of MCP servers: allow what you have read, call it under policy.")
Name = Annotated[str, typer.Argument(metavar="SERVER.TOOL", help="The tool.", show_default=False)]
_LOOK_EVERY_S = 0.5
_OVER = ("success", "error", "timeout", "cancelled")


@verb(app, "list", epilog=examples_epilog("flotilla tools list", "flotilla tools list -o json"))
def list_tools(call: VerbCall) -> None:
    """List what MCP servers offer, and whether it is allowed."""
    call.print_listing(call.gateway.get("/tools"), "tools", _TOOLS, "No MCP server offers a tool; see docs/tools.md.")


_TOOLS = (
    TableColumn("tool", "name"),
    TableColumn("status", "status"),
    TableColumn("risk", "risk"),
    TableColumn("described", lambda tool: age(tool.get("changed_at"))),
    TableColumn("allowed by", "allowed_by"),
)


@verb(app, "show", epilog=examples_epilog("flotilla tools show time.get_current_time"))
def show_tool(call: VerbCall, tool: Name) -> None:
    """Show a tool with its whole description: what a model would read."""
    found = call.gateway.get(f"/tools/{tool}")
    call.show(found, lambda: _print_tool(found))


def _print_tool(tool: dict[str, Any]) -> None:
    print_fields({name: tool[name] for name in ("name", "action", "status", "risk", "allowed_by", "allowed_at")})
    shown = tool["offered"] or tool["allowed"]
    say()
    say(_readable(shown))


@verb(
    app,
    "allow",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla tools allow time.get_current_time", "flotilla tools allow git.git_log --sha256 9f86…"
    ),
)
def allow_tool(
    call: VerbCall,
    tool: Name,
    sha256: Annotated[
        str | None,
        typer.Option(
            "--sha256",
            help="Only this description, by its hash. Default: the one offered now, which it shows and asks about.",
        ),
    ] = None,
) -> None:
    """Allow a tool as it is described now; it is refused once its server describes it otherwise."""
    found = call.gateway.get(f"/tools/{tool}")
    if found["offered"] is None:
        raise CliError(f"tool {tool} is not offered any more; to revoke it: flotilla tools revoke {tool}")
    seen = sha256 or confirm_description(tool, found["offered"])
    allowed = call.gateway.put(f"/tools/{tool}/allowance", {"sha256": seen})
    call.show(
        allowed, lambda: print_notice(f"Tool {tool} is allowed, as {allowed['allowed']['sha256'][:12]}.", style=None)
    )


def confirm_description(tool: str, offered: dict[str, Any]) -> str:
    """Return the hash of the description that the person at the terminal was shown and agreed to.

    Raises:
        Misuse: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise Misuse(
            "without a terminal, name the description that was read",
            f"flotilla tools allow {tool} --sha256 … (flotilla tools show {tool} prints it)",
        )
    print_notice(_readable(offered), style=None)
    typer.confirm("Allow exactly this?", abort=True, err=True)
    return str(offered["sha256"])


@verb(app, "revoke", acts_as=ADMIN, epilog=examples_epilog("flotilla tools revoke git.git_commit"))
def revoke_tool(call: VerbCall, tool: Name) -> None:
    """Allow a tool no more: calls that have not begun are refused."""
    answer = call.gateway.delete(f"/tools/{tool}/allowance")
    call.show(answer or {"tool": tool, "revoked": True}, lambda: print_notice(f"Tool {tool} is revoked.", style=None))


@verb(app, "diff", epilog=examples_epilog("flotilla tools diff git.git_log"))
def diff_tool(call: VerbCall, tool: Name) -> None:
    """Show how a tool's description differs from the one that was allowed."""
    found = call.gateway.get(f"/tools/{tool}")
    before, now = (_readable(found[which]) if found[which] else "" for which in ("allowed", "offered"))
    lines = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "allowed", "offered", lineterm=""))
    call.show({"tool": tool, "status": found["status"], "diff": lines}, lambda: _print_diff(tool, lines))


def _print_diff(tool: str, lines: list[str]) -> None:
    if not lines:
        print_notice(f"Tool {tool} is described as it was allowed.", style=None)
    for line in lines:
        say(line)


@verb(
    app,
    "call",
    epilog=examples_epilog(
        """flotilla tools call time.get_current_time --input '{"timezone": "Europe/Amsterdam"}'""",
        "flotilla tools call git.git_commit --input @commit.json --no-wait",
    ),
)
def call_tool(
    call: VerbCall,
    *,
    tool: Name,
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="The arguments: a JSON object, or @FILE.")
    ] = "{}",
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of its own.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the answer, also for people's.")] = True,
) -> None:
    """Call a tool once; it waits for people where policy asks for them."""
    from flotilla_cli.arguments import parse_json_object

    body: dict[str, Any] = {"steps": ["mcp"], "input": {"tool": tool, "arguments": parse_json_object(input_json)}}
    if session:
        body["session_id"] = session
    task = call.gateway.post("/tasks", body)
    if wait:
        task = _ended(call, task["task_id"])
    call.show(task, lambda: _print_answer(task))


@verb(
    app,
    "accept-result",
    acts_as=ADMIN,
    epilog=examples_epilog(
        """flotilla tools accept-result 0197… --result '{"refund": "r-17"}' --reason "it is in the till's books\"""",
        'flotilla tools accept-result 0197… --result "Paid back." --reason "seen at the server"',
    ),
)
def accept_result(
    call: VerbCall,
    approval_id: Annotated[
        str,
        typer.Argument(metavar="APPROVAL", help="It asks whether to run the call again.", show_default=False),
    ],
    *,
    result: Annotated[
        str, typer.Option("--result", metavar="VALUE", help="What the tool would have returned: JSON, else a text.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="How that is known; for the record.")],
) -> None:
    """State what came of a call that gave no answer, instead of running it again; then reject the question."""
    from flotilla_cli.arguments import parse_key_values

    body = {**parse_key_values([f"result={result}"]), "reason": reason}
    accepted = call.gateway.put(f"/approvals/{approval_id}/outcome", body)
    call.show(
        accepted,
        lambda: print_notice(
            f"The outcome of {accepted['tool']} is on record. The task goes on with it once a person rejects the "
            f"question: flotilla approvals reject {approval_id}",
            style=None,
        ),
    )


def _ended(call: VerbCall, task_id: str) -> dict[str, Any]:
    waits = False
    while True:
        task: dict[str, Any] = call.gateway.get(f"/tasks/{task_id}")
        if task["status"] in _OVER:
            return task
        if task["status"] == "waiting_for_approval" and not waits:
            waits = True
            print_notice(f"Task {task_id} waits for people: flotilla approvals list")
        time.sleep(_LOOK_EVERY_S)


def _print_answer(task: dict[str, Any]) -> None:
    result = task.get("result")
    if task["status"] not in _OVER:
        print_notice(f"Its answer: flotilla tasks get {task['task_id']}", style=None)
        return
    if not isinstance(result, dict):
        error = task.get("error") or {}
        raise CliError(str(error.get("message") or f"the task ended as {task['status']}"))
    for block in result["content"]:
        say(block["text"] if block.get("type") == "text" else json.dumps(block, ensure_ascii=False))
    if result["is_error"]:
        raise CliError("the tool says that it failed")


def _readable(definition: dict[str, Any]) -> str:
    """Return a definition as lines that can be read and compared."""
    schema, hints = (
        json.dumps(definition[name], indent=2, sort_keys=True, ensure_ascii=False)
        for name in ("input_schema", "annotations")
    )
    title, description = definition.get("title") or "-", definition.get("description") or ""
    return (
        f"sha256: {definition['sha256']}\ntitle: {title}\n{description}\ninput_schema: {schema}\nannotations: {hints}"
    )
