"""Which tests one process of a parallel run gets together: those that share servers which take seconds to start.

xdist's own groups have no effect: it writes them into the ids of tests, which pytest 9.2 no longer lets it do.
"""

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/contract/gateway/": "a gateway, and the schema of its API",
    "tests/chaos/outbox/": "storms, one at a time",
    "tests/integration/cli/": "a fleet",
    "tests/e2e/test_one_question.py": "the fleet with the built-in model",
    "tests/e2e/test_openai_clients.py": "the fleet with the built-in model",
    "tests/e2e/test_signed_export.py": "the fleet with the built-in model",
    "tests/e2e/": "the fleet with a stub for a model",
    "tests/integration/devstack/test_stack.py": "a stack of its own",
    "tests/integration/devstack/test_own_agent.py": "a stack with an agent",
    "tests/integration/kafka/test_acl.py": "a Kafka with users",
    "tests/integration/audit/test_outages.py": "a Kafka and a PostgreSQL to harm",
    "tests/integration/outbox/test_link.py": "a Kafka and a PostgreSQL to harm, for the outbox",
    "tests/integration/outbox/test_outages.py": "a Kafka and a PostgreSQL to harm, for the outbox",
    "tests/integration/workflow_worker/test_lost_rows.py": "a PostgreSQL to harm",
}
"""Where an id begins → what its tests share. The first that fits counts."""

SHORTEST = "tests/unit/"
"""Where tests need no server: those that fill the end of a parallel run."""


class SharedServers(LoadScopeScheduling):
    """Hands out single tests, and those of `TOGETHER` as a whole; the largest group first."""

    def _split_scope(self, nodeid: str) -> str:
        return next((shared for place, shared in TOGETHER.items() if nodeid.startswith(place)), nodeid)
