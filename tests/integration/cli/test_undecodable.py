"""`flotilla dead-letters`. Last of its folder: five deliveries of what nobody can read take over a minute."""

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

ADMIN = ("--as", "admin")
LETTERS = "/dead-letters?stream=flotilla.tasks.research"


async def test_entries_that_are_no_tasks_become_dead_letters_to_show_redrive_and_discard(
    fleet: Fleet, nonsense: str
) -> None:
    # They name no session, so only an operator of every session sees them.
    found = await until(
        fleet, LETTERS, lambda page: page["dead_letters"][1:] and page["dead_letters"], name="admin", timeout_s=200
    )
    redriven, discarded = (letter["dead_letter_id"] for letter in found)
    assert nonsense in fleet.cli("dead-letters", "show", redriven, *ADMIN).stdout
    fleet.cli("dead-letters", "redrive", redriven, *ADMIN)
    fleet.cli("dead-letters", "discard", discarded, *ADMIN)
    still_open = fleet.cli_json("dead-letters", "list", "--stream", "flotilla.tasks.research", *ADMIN)["dead_letters"]
    assert not {redriven, discarded} & {letter["dead_letter_id"] for letter in still_open}
    assert fleet.cli("dead-letters", "discard", discarded, *ADMIN, check=False).returncode == 1
    assert fleet.cli("dead-letters", "show", "no-such-letter", *ADMIN, check=False).returncode == 3
