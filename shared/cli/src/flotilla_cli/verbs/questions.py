"""`flotilla questions`: what workflows ask people."""

import json
from typing import Annotated, Any

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, say, shorten_to_line
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Questions: what workflows ask people. The first answer counts.")
QuestionId = Annotated[str, typer.Argument(metavar="ID", help="The question's id.", show_default=False)]


@verb(
    app, "list", epilog=examples_epilog("flotilla questions list", "flotilla questions list --run 0197… --status all")
)
def list_questions(
    call: VerbCall,
    *,
    status: Annotated[str, typer.Option("--status", help="open, answered, expired, cancelled or all.")] = "open",
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Only of this run.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only of this session.")] = None,
    limit: Limit = 50,
) -> None:
    """List the questions that wait for an answer."""
    wanted = None if status == "all" else status
    page = call.gateway.list_all_pages("/questions", "questions", limit, status=wanted, run_id=run, session_id=session)
    call.print_listing(page, "questions", _QUESTIONS, "No open questions." if status == "open" else "None.")


_QUESTIONS = (
    TableColumn("question", "question_id"),
    TableColumn("what is asked", lambda question: shorten_to_line(question.get("question") or "", 60)),
    TableColumn("for", lambda question: ", ".join(question.get("roles") or ()) or "-"),
    TableColumn("status", "status"),
    TableColumn("deadline", lambda question: age(question.get("deadline_at"))),
)


@verb(app, "show", epilog=examples_epilog("flotilla questions show 0197….ask_person"))
def show_question(call: VerbCall, question_id: QuestionId) -> None:
    """Show a question, the fields of its answer, and what was answered."""
    question = call.gateway.get(f"/questions/{question_id}")
    call.show(question, lambda: _print_question(question))


def _print_question(question: dict[str, Any]) -> None:
    print_fields({name: value for name, value in question.items() if name not in ("schema", "answer")})
    for name in ("schema", "answer"):
        if question.get(name) is not None:
            say()
            say(f"{name}:")
            say(json.dumps(question[name], indent=2, ensure_ascii=False))


@verb(
    app,
    "answer",
    epilog=examples_epilog(
        "flotilla questions answer 0197….ask_person --arg supplier=Nord --arg cents=500",
        """flotilla questions answer 0197….ask_person --answer '{"supplier": "Nord"}'""",
    ),
)
def answer_question(
    call: VerbCall,
    question_id: QuestionId,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="K=V", help="A field of the answer, repeatable; V may be JSON: n=3, s='\"3\"'."),
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="JSON", help="Instead: the answer as a JSON object, or @FILE.")
    ] = None,
) -> None:
    """Answer a question. The same answer again is no second one."""
    from flotilla_cli.arguments import parse_json_object, parse_key_values

    if (answer is None) == (not arg):
        raise Misuse("there is no answer, or two", "give its fields with --arg, or all of it with --answer")
    data = parse_key_values(arg or ()) if answer is None else parse_json_object(answer)
    question = call.gateway.post(f"/questions/{question_id}/answer", {"answer": data})
    call.show(question, lambda: _print_question(question))
