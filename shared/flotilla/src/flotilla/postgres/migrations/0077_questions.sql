-- Questions that workflows ask people, each with the one answer that counts. The worker asks and closes, the gateway
-- answers: neither can write what the other does.
CREATE TABLE flotilla.questions (
    tenant_id text NOT NULL,
    question_id text NOT NULL,
    session_id text NOT NULL,
    run_id text NOT NULL,
    workflow_id text NOT NULL,
    question text NOT NULL,
    answer_schema jsonb NOT NULL,
    -- Who answers has one of these; none: operators who may write to the session.
    roles text[] NOT NULL,
    deadline_at timestamptz,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'answered', 'expired', 'cancelled')),
    answer jsonb,
    answered_by text,
    -- The service that answered on that person's behalf.
    acted_by text,
    -- Of the event that holds the answer: the worker reads it there.
    event_seq bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    PRIMARY KEY (tenant_id, question_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES flotilla.runs
);
CREATE INDEX questions_by_time ON flotilla.questions (tenant_id, status, created_at DESC, question_id);
CREATE INDEX questions_by_run ON flotilla.questions (tenant_id, run_id);
CREATE INDEX questions_by_session ON flotilla.questions (tenant_id, session_id);
SELECT flotilla_ops.protect('flotilla.questions');
GRANT SELECT, UPDATE (status, answer, answered_by, acted_by, event_seq, closed_at) ON flotilla.questions
    TO flotilla_gateway;
GRANT SELECT, INSERT (tenant_id, question_id, session_id, run_id, workflow_id, question, answer_schema, roles, deadline_at),
    UPDATE (status, closed_at) ON flotilla.questions TO flotilla_worker;
GRANT SELECT, UPDATE (status, closed_at) ON flotilla.questions TO flotilla_app;

-- Who is asked by a role sees the question, and nothing else of the session.
CREATE POLICY people ON flotilla.questions AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all()) OR coalesce(roles && (SELECT flotilla_ops.viewer_roles()), false)
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = questions.tenant_id AND s.session_id = questions.session_id));
-- The gateway answers what is open, for those who may, and notes once where the answer is in the log.
CREATE POLICY gateway_answers ON flotilla.questions AS RESTRICTIVE FOR UPDATE TO flotilla_gateway
    USING ((status = 'open' OR (status = 'answered' AND event_seq IS NULL))
        AND ((SELECT flotilla_ops.sees_all()) OR coalesce(roles && (SELECT flotilla_ops.viewer_roles()), false)
             OR EXISTS (SELECT FROM flotilla.sessions AS s
                        WHERE s.tenant_id = questions.tenant_id AND s.session_id = questions.session_id
                          AND flotilla_ops.has_access(s.visibility, s.owner, s.writers,
                                                      (SELECT flotilla_ops.viewer_names())))))
    WITH CHECK (status = 'answered');
CREATE POLICY worker_closes ON flotilla.questions AS RESTRICTIVE FOR UPDATE TO flotilla_worker
    USING (status = 'open') WITH CHECK (status IN ('expired', 'cancelled'));

-- The session in which the transaction records a vote or an answer, if the viewer may decide, or answer by a role.
CREATE OR REPLACE FUNCTION flotilla.deciding_session() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT a.session_id FROM flotilla.approvals AS a
    JOIN flotilla.sessions AS s ON s.tenant_id = a.tenant_id AND s.session_id = a.session_id
    WHERE a.tenant_id = flotilla_ops.current_tenant()
      AND a.approval_id = nullif(current_setting('flotilla.deciding', true), '')
      AND (flotilla_ops.may_decide(a.requirement, flotilla_ops.viewer_roles())
           OR flotilla_ops.has_access(s.visibility, s.owner, s.readers || s.writers, flotilla_ops.viewer_names()))
    UNION ALL
    SELECT q.session_id FROM flotilla.questions AS q
    WHERE q.tenant_id = flotilla_ops.current_tenant()
      AND q.question_id = nullif(current_setting('flotilla.deciding', true), '')
      AND coalesce(q.roles && flotilla_ops.viewer_roles(), false)
    LIMIT 1
    $$;
SELECT flotilla_ops.open_to('flotilla.questions', 'flotilla_definer');
GRANT SELECT ON flotilla.questions TO flotilla_definer;
