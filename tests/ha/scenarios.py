"""Every scenario, by server: one for each in `.ci/run`, a short set in `make test-ha`, the rest with FULL=1."""

from tests.ha.faults import disks, kafka, postgres, redis, services, temporal
from tests.ha.harness.scenario import Scenario

CLEAN_S = 10.0
"""Within which a fleet must have recovered from a clean failover, or once its server is back."""
SILENT_S = 20.0
"""From a death that nobody reports: connections stay open and mute."""

EACH_SERVER = (
    Scenario("Kafka: leader killed", kafka.leader_killed, SILENT_S),
    Scenario("PostgreSQL: primary killed, standby promoted", postgres.FAILOVER.primary_killed, CLEAN_S),
    Scenario("Redis: switchover, old connections alive", redis.switched_over, CLEAN_S),
    Scenario("Temporal: killed and restarted", temporal.killed, CLEAN_S),
)
SHORT = (
    Scenario("Kafka: leader stopped in order", kafka.leader_stopped, CLEAN_S),
    Scenario("Kafka: leader frozen 20 s", kafka.leader_frozen, SILENT_S),
    Scenario("Kafka: leader unreachable 30 s", kafka.leader_unreachable, CLEAN_S),
    Scenario("PostgreSQL: silent death, standby promoted", postgres.FAILOVER.silent_death, SILENT_S),
    Scenario("PostgreSQL: address leads to the standby 10 s", postgres.read_only, CLEAN_S),
    Scenario("PostgreSQL: no connections left 10 s", postgres.no_connections_left, CLEAN_S),
    Scenario("Redis: silent death, replica promoted", redis.FAILOVER.silent_death, SILENT_S),
    Scenario("Redis: primary killed, replica promoted without the last 4 s", redis.tail_lost, CLEAN_S),
    Scenario("Temporal: silent death of a node", temporal.node_gone, SILENT_S),
)
FULL = (
    Scenario("Kafka: rolling restart", kafka.rolling_restart, CLEAN_S),
    Scenario("Kafka: two brokers killed, 10 s without quorum", kafka.two_killed, SILENT_S),
    Scenario("All servers: 100 ms round trip, 1% stalls of 3 s", kafka.slow_network, 2 * SILENT_S),
    Scenario("PostgreSQL: switchover in order", postgres.switched_over, CLEAN_S),
    Scenario("PostgreSQL: primary frozen, standby promoted", postgres.primary_frozen, SILENT_S),
    Scenario("PostgreSQL: killed and restarted", postgres.restarted, CLEAN_S),
    Scenario("Redis: primary killed, replica promoted", redis.FAILOVER.primary_killed, CLEAN_S),
    Scenario("Redis: black hole 20 s", redis.black_hole, CLEAN_S),
    Scenario("Redis: answers stalled 10 s", redis.answers_stalled, CLEAN_S),
    Scenario("Redis: killed and restarted", redis.restarted, CLEAN_S),
    Scenario("Temporal: restarted in order", temporal.restarted, CLEAN_S),
    Scenario("Temporal: frozen 20 s", temporal.frozen, CLEAN_S),
    Scenario("Temporal: answers stalled 10 s", temporal.answers_stalled, CLEAN_S),
    Scenario("Services: each at its memory limit in turn", services.out_of_memory, CLEAN_S),
    Scenario("Kafka: the disk of a broker full", disks.one_broker_full, SILENT_S),
    Scenario("Kafka: all disks full and emptied", disks.all_brokers_full, CLEAN_S),
    Scenario("PostgreSQL: disk full and emptied", disks.postgres_full, CLEAN_S),
)
