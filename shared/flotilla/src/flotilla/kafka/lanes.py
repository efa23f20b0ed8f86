"""The lane of a session: the Kafka partition of its key, by the standard partitioner.

Stored on each outbox row, so that relays can share the work by lane and keep the order within a session.
"""

from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, session_key

_MURMUR2_SEED = 0x9747B28C
_MURMUR2_MULTIPLIER = 0x5BD1E995
_UINT32_MASK = 0xFFFFFFFF


def lane_of_session(tenant_id: str, session_id: str, lanes: int = SESSION_EVENTS_PARTITIONS) -> int:
    """The lane, from 0 to `lanes - 1`, of a session."""
    key = session_key(tenant_id, session_id).encode()
    return (murmur2(key) & 0x7FFFFFFF) % lanes


def murmur2(data: bytes) -> int:
    """Kafka's murmur2, as in `org.apache.kafka.common.utils.Utils.murmur2`; an unsigned 32-bit number."""
    h = (_MURMUR2_SEED ^ len(data)) & _UINT32_MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _MURMUR2_MULTIPLIER & _UINT32_MASK
        k = (k ^ (k >> 24)) * _MURMUR2_MULTIPLIER & _UINT32_MASK
        h = (h * _MURMUR2_MULTIPLIER & _UINT32_MASK) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    h = (h ^ (h >> 13)) * _MURMUR2_MULTIPLIER & _UINT32_MASK
    return h ^ (h >> 15)
