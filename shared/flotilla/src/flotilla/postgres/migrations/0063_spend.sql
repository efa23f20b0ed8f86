-- What each model call cost, in billionths of a currency: one row per call that the endpoint counted, answered or not.
CREATE TABLE flotilla.llm_spend (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    task_id text NOT NULL,
    call_index integer NOT NULL,
    request_hash bytea NOT NULL,
    run_id text,
    session_id text NOT NULL,
    agent text NOT NULL,
    model text NOT NULL,
    person text,
    service text,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    nanos bigint NOT NULL CHECK (nanos >= 0),
    currency text NOT NULL,
    answered boolean NOT NULL,
    spent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX llm_spend_by_time ON flotilla.llm_spend (tenant_id, spent_at);
CREATE INDEX llm_spend_by_run ON flotilla.llm_spend (tenant_id, run_id) WHERE run_id IS NOT NULL;
SELECT flotilla_ops.protect('flotilla.llm_spend');
GRANT SELECT, INSERT ON flotilla.llm_spend TO flotilla_app;
GRANT SELECT ON flotilla.llm_spend TO flotilla_gateway, flotilla_worker;
GRANT INSERT ON flotilla.llm_spend TO flotilla_agent;
-- An agent enters what its own task spent, for those who asked for the task, and reads nothing.
CREATE POLICY task ON flotilla.llm_spend FOR INSERT TO flotilla_agent
    WITH CHECK ((tenant_id, task_id, session_id, agent) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent FROM flotilla.held_task() AS h WHERE h.may_work)
        AND person IS NOT DISTINCT FROM (SELECT a.person FROM flotilla.asked_by() AS a)
        AND service IS NOT DISTINCT FROM (SELECT a.service FROM flotilla.asked_by() AS a));

-- Budgets in money stand beside those of tokens, in billionths, under `money:` and the same names, with one per agent:
-- `money:agent:<day>:<agent>`.
ALTER POLICY run_or_day ON flotilla.token_budgets
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h WHERE h.may_work)
           AND (SELECT starts_with(b.name, 'day:')
                    OR b.name = (SELECT 'run:' || h.run_id FROM flotilla.held_task() AS h WHERE h.may_work)
                    OR overlay(b.name PLACING '' FROM 8 FOR 11) = (SELECT 'person:' || a.person FROM flotilla.asked_by() AS a)
                    OR overlay(b.name PLACING '' FROM 9 FOR 11) = (SELECT 'service:' || a.service FROM flotilla.asked_by() AS a)
                    OR (b.in_money AND overlay(b.name PLACING '' FROM 7 FOR 11) =
                        (SELECT 'agent:' || h.agent FROM flotilla.held_task() AS h WHERE h.may_work))
                FROM (SELECT starts_with(scope, 'money:') AS in_money,
                          CASE WHEN starts_with(scope, 'money:') THEN substr(scope, 7) ELSE scope END AS name) AS b));
