"""`flotilla doctor --llm`: which dialect the model endpoint speaks, and the settings that fit it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from flotilla_cli.errors import CliError
from flotilla_cli.printing import OutputFormat, print_json, print_notice, say

if TYPE_CHECKING:
    from flotilla.llm.probe import ProbeResult


def probe_model_features(output: OutputFormat) -> None:
    """Ask the endpoint of the environment once per feature, and print what it understands.

    Raises:
        CliError: no endpoint is set, its settings can't be used, or it gives no plain answer.
    """
    from flotilla.config import LlmSettings, load_settings
    from flotilla.contracts.errors import ConfigurationError
    from flotilla.llm.probe import probe_endpoint, suggest_settings

    try:
        settings = load_settings(LlmSettings)
        if settings.openai_base_url is None and settings.openai_api_key is None:
            raise CliError(
                "no model endpoint is set here", "set OPENAI_BASE_URL or OPENAI_API_KEY, and FLOTILLA_LLM_MODEL"
            )
        found = asyncio.run(_collected(probe_endpoint(settings), output))
    except ConfigurationError as error:
        raise CliError(str(error)) from error
    variables = suggest_settings(found)
    if output is OutputFormat.JSON:
        print_json({"features": [asdict(one) for one in found], "settings": variables})
    if not found[0].works:
        raise CliError(f"the endpoint returned no answer: {found[0].detail}")
    if output is OutputFormat.TABLE:
        _print_settings(variables)


async def _collected(found: "AsyncIterator[ProbeResult]", output: OutputFormat) -> "list[ProbeResult]":
    """All of it, each line printed as it comes."""
    collected = []
    async for one in found:
        collected.append(one)
        if output is OutputFormat.TABLE:
            _print(one)
    return collected


def _print(one: "ProbeResult") -> None:
    mark, style = ("✓", "green") if one.works and not one.word else ("✗", "red") if one.known else ("?", "yellow")
    say(f"{mark} {one.name:24} {one.detail}", style=style)


def _print_settings(variables: dict[str, str]) -> None:
    if not variables:
        print_notice("The default settings fit this endpoint.")
        return
    print_notice("The settings that fit this endpoint:")
    for name, value in variables.items():
        say(f"{name}={value}")
