"""Figures of a replay, beside those of the recording, and what is different run by run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flotilla_cli.evaluation.figures import mean, times
from flotilla_cli.evaluation.replaying import Answered, Replayed


def replay_report(replayed: Sequence[Replayed], candidate: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as JSON; `figures` are the replay's, `recorded` the same of the recording."""
    return {
        "runs": len(replayed),
        "candidate": dict(candidate),
        "figures": {**_figures([one.replayed for one in replayed]), **_differences(replayed)},
        "recorded": _figures([one.recorded for one in replayed]),
        "outcomes": [{**asdict(one), "difference": difference(one)} for one in replayed],
    }


def difference(one: Replayed) -> str:
    """What is different, in words; empty where nothing is."""
    before, now = one.recorded, one.replayed
    found = []
    if now.status != before.status:
        found.append(f"{before.status}, now {now.status}")
    if now.abstained != before.abstained:
        found.append("declined now" if now.abstained else "answered now")
    elif now.answer.split() != before.answer.split():
        found.append("another answer")
    if now.cited != before.cited:
        found.append("other sources")
    if one.blocked_calls:
        found.append(f"{len(one.blocked_calls)} calls blocked")
    if one.changed_searches:
        found.append("another search")
    if one.unused_calls:
        found.append(f"{len(one.unused_calls)} calls not made")
    return ", ".join(found)


def _figures(runs: Sequence[Answered]) -> dict[str, float]:
    sentences = sum(one.sentences for one in runs)
    figures: dict[str, float | None] = {
        "failed": mean(one.status != "success" for one in runs),
        "abstained": mean(one.abstained for one in runs),
        "confidence": mean(one.confidence for one in runs if one.status == "success"),
        "unsupported_sentences": sum(one.unsupported for one in runs) / sentences if sentences else None,
        "tokens": mean(one.tokens for one in runs),
        **_amounts(runs),
        **times("run", [one.seconds for one in runs if one.seconds is not None]),
    }
    return {name: round(value, 6) for name, value in figures.items() if value is not None}


def _differences(replayed: Sequence[Replayed]) -> dict[str, float]:
    overlaps = [_overlap(one) for one in replayed]
    same = [one.replayed.answer.split() == one.recorded.answer.split() for one in replayed]
    return {
        "same_answer": round(mean(same) or 0.0, 4),
        "shared_sources": round(mean(overlaps) or 0.0, 4),
        "blocked_calls": sum(len(one.blocked_calls) for one in replayed),
        "changed_searches": sum(len(one.changed_searches) for one in replayed),
        "unused_calls": sum(len(one.unused_calls) for one in replayed),
        "blocked_effects": sum(one.blocked_effects for one in replayed),
    }


def _overlap(one: Replayed) -> float:
    """Of the passages that either cites, the share that both cite; 1 where neither cites any."""
    before, now = set(one.recorded.cited), set(one.replayed.cited)
    return len(before & now) / len(before | now) if before | now else 1.0


def _amounts(runs: Sequence[Answered]) -> dict[str, float]:
    currencies = sorted({currency for one in runs for currency in one.amount})
    return {
        f"amount_{currency.lower()}": math.fsum(one.amount.get(currency, 0.0) for one in runs)
        for currency in currencies
    }
