"""`flotilla eval`: how well the fleet finds and answers, on questions of your own."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import (
    TableColumn,
    print_fields,
    print_json_line,
    print_notice,
    print_table,
    say,
    shorten_to_line,
)
from flotilla_cli.verb import VerbCall, examples_epilog, new_verb_group, verb

if TYPE_CHECKING:
    from flotilla_cli.evaluation.report import FigureRequirement


class Index(StrEnum):
    """What the searches of a replay find."""

    RECORDED = "recorded"
    LIVE = "live"


app = new_verb_group("Evaluation: questions with what is expected of them, measured and compared.")


@verb(
    app,
    "run",
    epilog=examples_epilog(
        "flotilla eval run questions.jsonl",
        'flotilla eval run questions.jsonl --answers --require "recall@5>=0.9" --require "false_abstention<=0.05"',
        "flotilla eval run questions.jsonl -o json > monday.json",
        "flotilla eval run questions.jsonl --compare monday.json",
    ),
)
def run_evaluation(
    call: VerbCall,
    questions: Annotated[Path, typer.Argument(metavar="SET", help="JSON lines: question, uris, texts, answerable.")],
    *,
    depth: Annotated[int, typer.Option("-k", metavar="N", min=1, max=50, help="How many passages to look at.")] = 10,
    answers: Annotated[
        bool, typer.Option("--answers", help="Let the agents answer, too: abstention, calibration, tokens.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="Show what is different from this report.")
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="RULE", help='As "mrr>=0.7": else the exit code is 1.')
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=16, help="Questions at the same time.")
    ] = 2,
) -> None:
    """Ask a set of questions, and show how much of what is expected was found.

    Each line of the set is a question with the documents (`uris`: whole, or their last parts) or words (`texts`) that
    answer it; `"answerable": false` expects nothing. With --answers each question is a run in a session of its own.
    """
    from flotilla_cli.evaluation.questions import read_question_set
    from flotilla_cli.evaluation.report import changed_outcomes, evaluation_report, parse_requirement, read_report
    from flotilla_cli.evaluation.running import EvaluationRunner

    asked, before = read_question_set(questions), read_report(compare) if compare else None
    requirements = [parse_requirement(text) for text in require or ()]
    runner = EvaluationRunner(call.gateway, depth=depth, answers=answers, parallel=parallel)
    report = evaluation_report(runner.run(asked, show_progress=not call.prints_json), depth)
    if before:
        report |= {"compared": {"figures": before["figures"], "changes": changed_outcomes(before, report)}}
    call.show(report, lambda: _print_report(report))
    _check(requirements, report, "look at the questions that were not found: -o json has each")


@verb(
    app,
    "replay",
    epilog=examples_epilog(
        "flotilla eval replay handbook --model gpt-5-mini",
        'flotilla eval replay s1 s2 --prompt write=prompt.txt --require "same_answer>=0.9"',
        "flotilla eval replay s1 --agent write=write-next --index live -o json > candidate.json",
    ),
)
def replay_sessions(
    call: VerbCall,
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION…", help="Whose recorded questions to ask again.")],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="One of FLOTILLA_LLM_REPLAY_MODELS of the agents.")
    ] = "",
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="AGENT=FILE", help="Instead of an agent's own; repeatable.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option("--agent", metavar="AGENT=OTHER", help="Who works in its place; repeatable.")
    ] = None,
    index: Annotated[
        Index, typer.Option("--index", help="Passages as they were found then, or searches in the documents of today.")
    ] = Index.RECORDED,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="RULE", help='As "same_answer>=0.9": else exit code 1.')
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, max=16, help="Runs at the same time.")] = 2,
) -> None:
    """Do recorded questions again with another model, prompt, agent or index, and compare.

    Effects are blocked: tools return what they returned then, and a call that was not recorded is refused. Each replay
    is a run in a session of its own, of the kind `replay`.
    """
    from flotilla_cli.arguments import parse_key_texts
    from flotilla_cli.evaluation.differences import replay_report
    from flotilla_cli.evaluation.replaying import ReplayRunner
    from flotilla_cli.evaluation.report import parse_requirement

    requirements = [parse_requirement(text) for text in require or ()]
    candidate = {
        "model": model,
        "prompts": {name: _text_of(Path(file)) for name, file in parse_key_texts(prompt or ()).items()},
        "agents": parse_key_texts(agent or ()),
        "index": index.value,
    }
    runner = ReplayRunner(call.gateway, candidate, parallel=parallel)
    recorded = [run for session in sessions for run in runner.recorded_runs(session)]
    if not recorded:
        raise CliError("these sessions have no question that is over", "flotilla runs list --session ID --workflow rag")
    report = replay_report(runner.run(recorded, show_progress=not call.prints_json), candidate)
    call.show(report, lambda: _print_replay(report))
    _check(requirements, report, "look at the runs that differ: -o json has both answers of each")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{file} cannot be read: {error}", "--prompt AGENT=FILE takes a file of text") from error


def _check(requirements: Sequence["FigureRequirement"], report: dict[str, Any], hint: str) -> None:
    """Raise CliError where one of them does not hold."""
    broken = [reason for one in requirements if (reason := one.why_not_met(report["figures"]))]
    if broken:
        raise CliError("; ".join(broken), hint)


def _print_replay(report: dict[str, Any]) -> None:
    recorded = report["recorded"]
    names = dict.fromkeys((*report["figures"], *recorded))
    rows = [{"name": n, "replayed": report["figures"].get(n), "recorded": recorded.get(n)} for n in names]
    print_table(rows, _BESIDE, "No figure.")
    say()
    print_table([one for one in report["outcomes"] if one["difference"]], _DIFFERENT, "No run came to anything else.")


_BESIDE = (
    TableColumn("figure", "name"),
    TableColumn("replayed", "replayed", "right"),
    TableColumn("recorded", "recorded", "right"),
)
_DIFFERENT = (
    TableColumn("run", "run_id"),
    TableColumn("replay", "replay_run_id"),
    TableColumn("difference", "difference"),
    TableColumn("question", lambda row: shorten_to_line(row["question"], 60)),
)


@verb(
    app,
    "fit",
    epilog=examples_epilog(
        "flotilla eval fit monday.json --to calibration.json", "flotilla eval fit monday.json --refuse 0.02"
    ),
)
def fit_calibration(
    call: VerbCall,
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="Of `flotilla eval run --answers -o json`.")],
    *,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Where to write it.")] = Path("calibration.json"),
    refuse: Annotated[
        float, typer.Option("--refuse", metavar="SHARE", min=0, max=0.5, help="Of answerable questions, at most.")
    ] = 0.05,
) -> None:
    """Fit the confidence of answers, and when to decline, to judged answers of your own fleet.

    Let the writer answer everything while you collect them (FLOTILLA_WRITER_ABSTAIN=false), then give it the file as
    FLOTILLA_CALIBRATION_FILE. Keep another set to see how good it is: eval run --answers shows Brier score and ECE.
    """
    from flotilla_cli.evaluation.fitting import fit_calibration_to_report, write_calibration
    from flotilla_cli.evaluation.report import read_report

    calibration = fit_calibration_to_report(read_report(report), refused=refuse)
    write_calibration(calibration, to)
    stage = calibration.stages[0]
    fitted = {
        "file": str(to),
        "model": calibration.model,
        "questions": stage.questions,
        "features": list(stage.right.features),
        "refused_answerable": stage.refused_answerable,
        "answered_unanswerable": stage.answered_unanswerable,
    }
    call.show(fitted, lambda: print_fields(fitted))
    print_notice("these rates are of the questions it was fitted on: others will see somewhat worse ones")


@verb(app, "from-feedback", epilog=examples_epilog("flotilla eval from-feedback > questions.jsonl"))
def set_from_feedback(call: VerbCall) -> None:
    """Print a set of the questions whose answers people found good: each expects the documents that were cited.

    Answers that they found bad are counted: what is expected of those only a person can say.
    """
    from flotilla_cli.evaluation.feedback import questions_from_feedback

    questions, bad = questions_from_feedback(call.gateway.each("/feedback", "feedback"))
    for question in questions:
        print_json_line(question)
    print_notice(
        f"{len(questions)} questions; {bad} verdicts on bad answers are left out: add what they should find by hand"
    )


def _print_report(report: dict[str, Any]) -> None:
    before = report.get("compared", {}).get("figures", {})
    rows = [{"name": name, "value": value, "before": before.get(name)} for name, value in report["figures"].items()]
    columns = (TableColumn("figure", "name"), TableColumn("value", "value", "right"))
    print_table(rows, (*columns, TableColumn("before", "before", "right")) if before else columns, "No figure.")
    if report["reliability"]:
        say()
        print_table(report["reliability"], _RELIABILITY, "")
    if "compared" in report:
        say()
        print_table(report["compared"]["changes"], _CHANGES, "No question has another outcome.")
        return
    missed = [one for one in report["outcomes"] if one["answerable"] and not one["first"]]
    if missed:
        say()
        print_table(missed, _MISSED, "")


_RELIABILITY = (
    TableColumn("confidence", "confidence", "right"),
    TableColumn("right", "right", "right"),
    TableColumn("answers", "answers", "right"),
)
_CHANGES = (
    TableColumn("id", "id"),
    TableColumn("before", "before"),
    TableColumn("now", "now"),
    TableColumn("question", lambda row: shorten_to_line(row["question"], 80)),
)
_MISSED = (TableColumn("not found", "id"), TableColumn("question", lambda row: shorten_to_line(row["question"], 80)))
