-- Listings of A2A tasks are of one workflow or agent: without these columns they read past every other one's runs.
CREATE INDEX runs_of_agents_by_change ON flotilla.runs
    (tenant_id, workflow, (coalesce(request -> 'steps', '[]'::jsonb)),
     (coalesce(finished_at, started_at, created_at)) DESC, run_id DESC);
DROP INDEX flotilla.runs_by_change;
