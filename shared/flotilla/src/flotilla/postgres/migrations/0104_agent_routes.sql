-- Which versions of an agent get its tasks, and what share of the sessions. An agent without rows is routed to no version:
-- its tasks are on one stream for all. Of the fleet, like the registry of agents.
CREATE TABLE flotilla_ops.agent_routes (
    agent text NOT NULL,
    version text NOT NULL,
    percent integer CHECK (percent BETWEEN 0 AND 100),
    drained boolean NOT NULL DEFAULT false,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent, version)
);
ALTER TABLE flotilla_ops.agent_routes ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON flotilla_ops.agent_routes FOR SELECT USING (true);
CREATE POLICY gateway ON flotilla_ops.agent_routes TO flotilla_gateway, flotilla_app USING (true);
GRANT SELECT ON flotilla_ops.agent_routes TO flotilla_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.agent_routes TO flotilla_gateway, flotilla_app;

-- The version that a task was routed to, once; '' where it goes to any.
ALTER TABLE flotilla.delegations ADD COLUMN version text;
