"""`flotilla audit`: proof that nobody changed the history."""

from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

app = new_app("Audit: proof that nobody changed the history.")
parked_app = new_app("Events that wait because one before them is missing.")
app.add_typer(parked_app, name="parked")


@verb(app, "checkpoints", acts_as=ADMIN, epilog=examples("flotilla audit checkpoints -o json"))
def checkpoints(call: Call, limit: Limit = 50) -> None:
    """List the signed checkpoints that anchor the chains, newest first."""
    page = call.gateway.pages("/audit/checkpoints", "checkpoints", limit)
    call.listing(page, "checkpoints", (), "No checkpoint yet.")
