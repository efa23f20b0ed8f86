"""Which lanes this relay works: a lease row per lane, by the database's clock, in fair shares.

A lease only saves double work. Order and completeness hold even while two relays work the same lane.
"""

from collections.abc import Collection, Sequence

from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.postgres import Pool

LANE_LEASE_S = 5.0
LEASE_RENEWAL_INTERVAL_S = 1.0
"""Between renewals. A dead relay's lanes are taken within `LANE_LEASE_S` plus this, plus the time of a read."""

_LANE_LEASE_PREFIX = "outbox.lane."
_RELAY_LEASE_PREFIX = "outbox.relay."

# Says that this relay lives.
_UPSERT_RELAY_LEASE = """
INSERT INTO flotilla_ops.leases (name, owner, expires_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
"""
# All lanes and relays, and whether their leases hold.
_SELECT_LEASES = """
SELECT name, owner, expires_at > clock_timestamp() AS holds
FROM flotilla_ops.leases WHERE name LIKE 'outbox.lane.%' OR name LIKE 'outbox.relay.%'
"""
# Renews what is mine and takes what is free; another's lease that holds is left alone.
_TAKE_LANES = """
UPDATE flotilla_ops.leases
SET owner = $2, epoch = epoch + (owner <> $2)::int, expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE name = ANY ($1::text[]) AND (owner = $2 OR expires_at <= clock_timestamp())
RETURNING name
"""
# Hands lanes back at once.
_RELEASE_LANES = """
UPDATE flotilla_ops.leases SET owner = '', expires_at = '-infinity' WHERE name = ANY ($1::text[]) AND owner = $2
"""
_DELETE_RELAY_LEASE = "DELETE FROM flotilla_ops.leases WHERE name = $1 AND owner = $2"
# Relays that died without a word.
_DELETE_EXPIRED_RELAY_LEASES = """
DELETE FROM flotilla_ops.leases
WHERE name LIKE 'outbox.relay.%' AND expires_at < clock_timestamp() - interval '1 minute'
"""


class LaneLeases:
    """This relay's lanes. `instance` is unique among living relays."""

    def __init__(self, pool: Pool, instance: str, lanes: int = SESSION_EVENTS_PARTITIONS) -> None:
        self._pool = pool
        self._instance = instance
        self._lanes = lanes
        self.owned: frozenset[int] = frozenset()

    async def renew_leases(self, busy: Collection[int] = ()) -> None:
        """Renew, take up to the fair share, give back what is over it; `busy` lanes are given back next time."""
        await self._pool.execute(
            _UPSERT_RELAY_LEASE, _RELAY_LEASE_PREFIX + self._instance, self._instance, LANE_LEASE_S
        )
        leases = await self._pool.fetch(_SELECT_LEASES)
        relays = sorted({r["owner"] for r in leases if r["name"].startswith(_RELAY_LEASE_PREFIX) and r["holds"]})
        holders = {
            _lane_of_lease_name(r["name"]): r["owner"]
            for r in leases
            if r["name"].startswith(_LANE_LEASE_PREFIX) and r["holds"]
        }
        mine = {lane for lane, owner in holders.items() if owner == self._instance}
        share = fair_lane_count(self._instance, relays, self._lanes)
        surplus = [lane for lane in sorted(mine, reverse=True) if lane not in busy][: max(0, len(mine) - share)]
        keep = mine - set(surplus)
        free = [lane for lane in range(self._lanes) if lane not in holders]
        take = free[: max(0, share - len(keep))]
        await self._release_lanes(surplus)
        taken = await self._pool.fetch(
            _TAKE_LANES, [_lane_lease_name(lane) for lane in (*keep, *take)], self._instance, LANE_LEASE_S
        )
        self.owned = frozenset(_lane_of_lease_name(r["name"]) for r in taken)
        if any(r["name"].startswith(_RELAY_LEASE_PREFIX) and not r["holds"] for r in leases):
            await self._pool.execute(_DELETE_EXPIRED_RELAY_LEASES)

    async def release_all_lanes(self) -> None:
        """Hand every lane back, so that others take them without waiting for the lease to run out."""
        await self._release_lanes(range(self._lanes))
        await self._pool.execute(_DELETE_RELAY_LEASE, _RELAY_LEASE_PREFIX + self._instance, self._instance)
        self.owned = frozenset()

    async def _release_lanes(self, lanes: Sequence[int]) -> None:
        if lanes:
            await self._pool.execute(_RELEASE_LANES, [_lane_lease_name(lane) for lane in lanes], self._instance)


def fair_lane_count(instance: str, relays: Sequence[str], lanes: int) -> int:
    """How many lanes `instance` should have: the shares of all relays differ by one at most and add up to `lanes`."""
    everyone = sorted({*relays, instance})
    each, over = divmod(lanes, len(everyone))
    return each + (everyone.index(instance) < over)


def _lane_lease_name(lane: int) -> str:
    return f"{_LANE_LEASE_PREFIX}{lane:02d}"


def _lane_of_lease_name(name: str) -> int:
    return int(name.removeprefix(_LANE_LEASE_PREFIX))
