-- What people think of answers: one verdict of each person for each run, the last one counts.
CREATE TABLE flotilla.feedback (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    -- An identity, as `flotilla.contracts.identity` writes it.
    given_by text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('up', 'down')),
    comment text NOT NULL DEFAULT '',
    given_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, run_id, given_by),
    FOREIGN KEY (tenant_id, run_id) REFERENCES flotilla.runs
);
CREATE INDEX feedback_by_time ON flotilla.feedback (tenant_id, given_at, run_id);
SELECT flotilla_ops.protect('flotilla.feedback');
GRANT SELECT, INSERT, UPDATE (verdict, comment, given_at) ON flotilla.feedback TO flotilla_gateway;
-- Who may read the run reads what is said of it, and says something in no name but their own.
CREATE POLICY people_flotilla_gateway ON flotilla.feedback AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.runs AS r
        WHERE r.tenant_id = feedback.tenant_id AND r.run_id = feedback.run_id))
    WITH CHECK ((SELECT flotilla_ops.sees_all()) OR (given_by = ANY ((SELECT flotilla_ops.viewer_names())::text[])
        AND EXISTS (SELECT FROM flotilla.runs AS r
            WHERE r.tenant_id = feedback.tenant_id AND r.run_id = feedback.run_id)));
