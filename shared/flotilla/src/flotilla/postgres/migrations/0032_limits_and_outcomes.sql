-- Limits per person and per service: who asked for each run and task. The gateway says it for each transaction. `person`
-- is an identity, NULL where a service asked in its own name; `service` is a subject, NULL where a person asked directly.
ALTER TABLE flotilla.runs
    ADD COLUMN person text DEFAULT nullif(current_setting('flotilla.person', true), ''),
    ADD COLUMN service text DEFAULT nullif(current_setting('flotilla.service', true), '');
ALTER TABLE flotilla.pipelines
    ADD COLUMN person text DEFAULT nullif(current_setting('flotilla.person', true), ''),
    ADD COLUMN service text DEFAULT nullif(current_setting('flotilla.service', true), '');
CREATE INDEX runs_open_by_person ON flotilla.runs (tenant_id, person)
    WHERE status IN ('pending', 'running', 'interrupted');
CREATE INDEX runs_open_by_service ON flotilla.runs (tenant_id, service)
    WHERE status IN ('pending', 'running', 'interrupted');
CREATE INDEX pipelines_open_by_person ON flotilla.pipelines (tenant_id, person) WHERE finished_at IS NULL;
CREATE INDEX pipelines_open_by_service ON flotilla.pipelines (tenant_id, service) WHERE finished_at IS NULL;

-- Runs and tasks of the transaction's tenant that have not ended: of a `person`, of a `service`, or of the whole `tenant`;
-- also those in sessions that the caller may not see.
CREATE FUNCTION flotilla.open_work(of_kind text, named text) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    tenant CONSTANT text := flotilla_ops.current_tenant();
BEGIN
    IF of_kind = 'person' THEN
        RETURN (SELECT count(*) FROM flotilla.runs AS r WHERE r.tenant_id = tenant AND r.person = named
                    AND r.status IN ('pending', 'running', 'interrupted'))
             + (SELECT count(*) FROM flotilla.pipelines AS p WHERE p.tenant_id = tenant AND p.person = named
                    AND p.finished_at IS NULL);
    ELSIF of_kind = 'service' THEN
        RETURN (SELECT count(*) FROM flotilla.runs AS r WHERE r.tenant_id = tenant AND r.service = named
                    AND r.status IN ('pending', 'running', 'interrupted'))
             + (SELECT count(*) FROM flotilla.pipelines AS p WHERE p.tenant_id = tenant AND p.service = named
                    AND p.finished_at IS NULL);
    END IF;
    RETURN (SELECT count(*) FROM flotilla.runs AS r WHERE r.tenant_id = tenant
                AND r.status IN ('pending', 'running', 'interrupted'))
         + (SELECT count(*) FROM flotilla.pipelines AS p WHERE p.tenant_id = tenant AND p.finished_at IS NULL);
END
$$;
-- Who asked for the run or task that the transaction's held task belongs to: the tokens are theirs.
CREATE FUNCTION flotilla.asked_by() RETURNS TABLE (person text, service text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(r.person, p.person), coalesce(r.service, p.service)
    FROM flotilla.held_task() AS h
    LEFT JOIN flotilla.runs AS r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    LEFT JOIN flotilla.pipelines AS p ON p.tenant_id = h.tenant_id AND p.task_id = split_part(h.task_id, '~', 1)
    WHERE h.may_work
    $$;
ALTER FUNCTION flotilla.open_work(text, text) OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.asked_by() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.open_work(text, text), flotilla.asked_by() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.open_work(text, text) TO flotilla_gateway, flotilla_app;
GRANT EXECUTE ON FUNCTION flotilla.asked_by() TO flotilla_agent, flotilla_worker, flotilla_app;

-- Tokens are counted for the run, for the tenant's day, and for the day of who asked: `person:<day>:<identity>`,
-- `service:<day>:<subject>`.
GRANT SELECT ON flotilla.token_budgets TO flotilla_gateway;
ALTER POLICY run_or_day ON flotilla.token_budgets
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h WHERE h.may_work)
           AND (starts_with(scope, 'day:')
                OR scope = (SELECT 'run:' || h.run_id FROM flotilla.held_task() AS h WHERE h.may_work)
                OR overlay(scope PLACING '' FROM 8 FOR 11) = (SELECT 'person:' || a.person FROM flotilla.asked_by() AS a)
                OR overlay(scope PLACING '' FROM 9 FOR 11) = (SELECT 'service:' || a.service FROM flotilla.asked_by() AS a)));

-- What came of an action, for those who may read its session, and for those who voted on it and may still decide such: of
-- the session they see nothing else. The subject is the last part of an identity (`flotilla.contracts.identity`).
CREATE FUNCTION flotilla.outcome_of(approval text)
    RETURNS TABLE (action_status text, action_result jsonb, action_error jsonb, action_finished_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT c.status, c.result, c.error, c.finished_at
    FROM flotilla.approvals AS a
    JOIN flotilla.actions AS c ON c.tenant_id = a.tenant_id AND c.action_id = a.approval_id
    JOIN flotilla.sessions AS s ON s.tenant_id = a.tenant_id AND s.session_id = a.session_id
    WHERE a.tenant_id = flotilla_ops.current_tenant() AND a.approval_id = approval
      AND (flotilla_ops.sees_all()
           OR (flotilla_ops.has_access(s.visibility, s.owner, s.readers || s.writers, flotilla_ops.viewer_names())
               AND flotilla.sees_ancestors(s.tenant_id, s.ancestors))
           OR (flotilla_ops.may_decide(a.requirement, flotilla_ops.viewer_roles())
               AND EXISTS (SELECT FROM jsonb_array_elements(a.votes) AS v WHERE v ->> 'subject' =
                   replace(replace(split_part((flotilla_ops.viewer_names())[1], '/', 3), '%2F', '/'), '%25', '%'))))
    $$;
ALTER FUNCTION flotilla.outcome_of(text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.outcome_of(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.outcome_of(text) TO flotilla_gateway, flotilla_app;
