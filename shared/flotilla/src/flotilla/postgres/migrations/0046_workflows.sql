-- Workflows that installed packages bring: which there are, and their runs.

ALTER TABLE flotilla.runs
    -- Which workflow it is a run of; `rag` for questions.
    ADD COLUMN workflow text NOT NULL DEFAULT 'rag',
    -- Of the caller's own, to find runs by.
    ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
    -- What the run returned, where that is no answer to a question.
    ADD COLUMN output jsonb,
    -- How many of its numbered records are in the session.
    ADD COLUMN recorded integer NOT NULL DEFAULT 0;
CREATE INDEX runs_by_metadata ON flotilla.runs USING gin (metadata jsonb_path_ops);
CREATE INDEX runs_by_workflow ON flotilla.runs (tenant_id, workflow, created_at DESC);
CREATE INDEX actions_by_run ON flotilla.actions (tenant_id, (request ->> 'run_id')) WHERE request ->> 'run_id' <> '';
GRANT INSERT (workflow, metadata) ON flotilla.runs TO flotilla_gateway;

-- What each worker has installed, with a heartbeat.
CREATE TABLE flotilla_ops.workflows (
    name text NOT NULL,
    instance text NOT NULL,
    version text NOT NULL,
    task_queue text NOT NULL,
    description text NOT NULL,
    input_schema jsonb NOT NULL,
    output_schema jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, instance)
);
ALTER TABLE flotilla_ops.workflows ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON flotilla_ops.workflows FOR SELECT USING (true);
CREATE POLICY workers ON flotilla_ops.workflows TO flotilla_worker USING (true);
GRANT SELECT ON flotilla_ops.workflows TO flotilla_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.workflows TO flotilla_worker;
