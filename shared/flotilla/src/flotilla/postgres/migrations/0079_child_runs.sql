-- Runs that runs start: each has a session of its own, and names its parent.
ALTER TABLE flotilla.runs ADD COLUMN parent_run_id text;
CREATE INDEX runs_by_parent ON flotilla.runs (tenant_id, parent_run_id, created_at DESC) WHERE parent_run_id IS NOT NULL;
