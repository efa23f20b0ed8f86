"""Which version of its agent a session's tasks go to."""

from collections import Counter
from itertools import pairwise

import pytest

from workflow_worker.routes import ANY_VERSION, VersionShare, choose_agent_version

SESSIONS = [f"acme/s{number}" for number in range(2000)]


def share(percent: int | None, *, drained: bool = False) -> VersionShare:
    return VersionShare(percent, drained)


def test_a_version_gets_its_share_of_the_sessions_and_the_others_the_rest() -> None:
    got = Counter(choose_agent_version(session, {"3": share(10)}, ["1", "2", "3"]) for session in SESSIONS)
    assert 140 < got["3"] < 260
    assert 800 < got["1"] < 1000
    assert got.total() == got["1"] + got["2"] + got["3"]


def test_a_session_stays_with_its_version_while_the_share_grows() -> None:
    canary = [
        {s for s in SESSIONS if choose_agent_version(s, {"2": share(p)}, ["1", "2"]) == "2"}
        for p in (0, 5, 10, 50, 100)
    ]
    assert canary[0] == set()
    assert canary[-1] == set(SESSIONS)
    assert all(less < more for less, more in pairwise(canary))


@pytest.mark.parametrize(
    ("shares", "live", "expected"),
    [
        ({"2": share(10)}, ["2"], {"2"}),  # nobody else is there
        ({"2": share(100)}, ["1"], {"1"}),  # it is not deployed yet
        ({"1": share(None, drained=True)}, ["1", "2"], {"2"}),
        ({"1": share(50, drained=True), "2": share(10)}, ["1", "2"], {"2"}),
        ({"1": share(None, drained=True)}, ["1"], {ANY_VERSION}),
        ({"1": share(40), "2": share(40)}, ["1", "2"], {"1", "2"}),  # what nobody is said to get is shared
        ({"1": share(None)}, [], {ANY_VERSION}),
    ],
)
def test_only_versions_that_are_alive_and_not_drained_get_tasks(
    shares: dict[str, VersionShare], live: list[str], expected: set[str]
) -> None:
    assert {choose_agent_version(session, shares, live) for session in SESSIONS} == expected
