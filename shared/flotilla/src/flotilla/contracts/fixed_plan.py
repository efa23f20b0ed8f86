"""The built-in planner: fixed rules for where no language model is set. Pure, and the same every time."""

from flotilla.contracts.planning import MAX_STEPS_AT_ONCE, ChosenStep, NextSteps, OfferedTool, PlanRequest

NOTHING_TO_ASK = "None of the agents on offer takes a question alone. Set a language model to choose among them."


def default_plan(request: PlanRequest) -> NextSteps:
    """Ask every agent that needs one text and nothing else, once; then return what they said, side by side.

    Actions are never chosen.
    """
    if request.rounds or request.must_answer:
        said = [
            f"{step.name}: {outcome.text}"
            for done in request.rounds
            for step, outcome in zip(done.chosen, done.outcomes, strict=True)
        ]
        return NextSteps(answer="\n".join(said) or NOTHING_TO_ASK)
    fields = [(tool, _only_text(tool)) for tool in request.tools if tool.kind == "agent"]
    steps = [
        ChosenStep(call_id=f"call-{n}", name=tool.name, arguments={field: request.goal})
        for n, (tool, field) in enumerate(fields[:MAX_STEPS_AT_ONCE], 1)
        if field is not None
    ]
    return NextSteps(steps=steps) if steps else NextSteps(answer=NOTHING_TO_ASK)


def _only_text(tool: OfferedTool) -> str | None:
    """The one field that the agent needs, if that is a text."""
    required, properties = tool.schema.get("required"), tool.schema.get("properties")
    if not isinstance(required, list) or len(required) != 1 or not isinstance(properties, dict):
        return None
    name = str(required[0])
    described = properties.get(name)
    return name if isinstance(described, dict) and described.get("type") == "string" else None
