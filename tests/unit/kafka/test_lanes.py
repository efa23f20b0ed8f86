"""The lane of a session is the partition that Kafka's standard partitioner gives to its key."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, session_key
from flotilla.kafka.lanes import lane_of_session, murmur2

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=130)


@given(st.binary(max_size=300))
def test_murmur2_is_the_partitioners(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) & 0xFFFFFFFF


# From org.apache.kafka.common.utils.UtilsTest.testMurmur2, as unsigned numbers.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_murmur2_gives_the_java_clients_numbers(text: str, expected: int) -> None:
    assert murmur2(text.encode()) == expected & 0xFFFFFFFF


@given(names, names)
def test_lane_is_the_default_partition_of_the_key(tenant: str, session: str) -> None:
    partitions = list(range(SESSION_EVENTS_PARTITIONS))
    key = session_key(tenant, session).encode()
    assert lane_of_session(tenant, session) == DefaultPartitioner()(key, partitions, partitions)


def test_sessions_spread_over_all_lanes() -> None:
    lanes = [lane_of_session("default", f"session-{number}") for number in range(1200)]
    assert {lanes.count(lane) > 50 for lane in range(SESSION_EVENTS_PARTITIONS)} == {True}
