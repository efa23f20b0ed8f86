"""Ids that are put together of parts: different parts, different ids."""

import itertools

from flotilla.contracts.names import join_id_parts, order_workflow_id, session_key
from flotilla.contracts.tasks import hop_number, next_hop_id, root_task_id

SEPARATORS = "-/.:~%#_| \x00\n"
PARTS = [
    "".join(letters)
    for length in range(4)
    for letters in itertools.product(("a", *SEPARATORS), repeat=length)
    if length < 3 or set(letters) & set("/%-")
]


def test_two_parts_with_every_separator_in_every_place_never_meet() -> None:
    some = [part for part in PARTS if len(part) < 3]
    made = {join_id_parts(left, right): (left, right) for left in some for right in some}
    assert len(made) == len(some) ** 2


def test_three_parts_do_not_meet_two() -> None:
    short = [part for part in PARTS if len(part) < 2]
    three = {join_id_parts(*parts) for parts in itertools.product(short, repeat=3)}
    two = {join_id_parts(left, right) for left in PARTS for right in PARTS[:200]}
    assert len(three) == len(short) ** 3
    assert not three & two


def test_orders_of_two_tenants_never_share_a_workflow() -> None:
    pairs = [
        ("acme", "eu-1"),
        ("acme-eu", "1"),
        ("acme/eu", "1"),
        ("acme", "eu/1"),
        ("acme%2Feu", "1"),
        ("a", "cme-eu-1"),
    ]
    assert len({order_workflow_id(*pair) for pair in pairs}) == len(pairs)


def test_an_order_of_the_new_form_is_none_of_the_former_one() -> None:
    """Which was `order-<tenant>-<order>`, so that no new order meets a running saga of a former version."""
    assert all(order_workflow_id(left, "1").startswith("order/") for left in PARTS)


def test_keys_of_sessions_with_valid_ids_are_what_they_were() -> None:
    """The key decides the Kafka partition of all that a session has."""
    assert session_key("acme", "s-1:2.3_4") == "acme/s-1:2.3_4"


def test_hops_are_read_from_the_end_of_their_id() -> None:
    task = next_hop_id(next_hop_id("run-1.pipeline"))
    assert (task, root_task_id(task), hop_number(task)) == ("run-1.pipeline~2", "run-1.pipeline", 2)
