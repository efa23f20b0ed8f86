"""`flotilla dead-letters`. Last of its folder: five deliveries of what nobody can read take over a minute."""

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

LETTERS = "/dead-letters?stream=flotilla.tasks.research"


async def test_entries_that_are_no_tasks_become_dead_letters_to_show_redrive_and_discard(
    fleet: Fleet, nonsense: str
) -> None:
    found = await until(fleet, LETTERS, lambda page: page["dead_letters"][1:] and page["dead_letters"], timeout_s=200)
    redriven, discarded = (letter["dead_letter_id"] for letter in found)
    assert nonsense in fleet.cli("dead-letters", "show", redriven).stdout
    fleet.cli("dead-letters", "redrive", redriven)
    fleet.cli("dead-letters", "discard", discarded)
    still_open = fleet.cli_json("dead-letters", "list", "--stream", "flotilla.tasks.research")["dead_letters"]
    assert not {redriven, discarded} & {letter["dead_letter_id"] for letter in still_open}
    assert fleet.cli("dead-letters", "discard", discarded, check=False).returncode == 1
    assert fleet.cli("dead-letters", "show", "no-such-letter", check=False).returncode == 3
