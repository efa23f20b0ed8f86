-- Runs that begin by the clock. The rows say what is wanted; Temporal has a schedule for each, which fires without the
-- gateway. `generation` counts changes, `synced` is the newest that Temporal has.
CREATE TABLE flotilla.schedules (
    tenant_id text NOT NULL,
    schedule_id text NOT NULL,
    -- Of Temporal's schedule, and the beginning of its runs' ids.
    temporal_id text NOT NULL UNIQUE,
    -- When it fires (`flotilla.contracts.schedules.When`).
    fires jsonb NOT NULL,
    -- What its runs are started with: a `RAGRequest` or a `WorkflowRequest`, without a run.
    request jsonb NOT NULL,
    workflow text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    paused boolean NOT NULL DEFAULT false,
    note text NOT NULL DEFAULT '',
    -- Who made it, or changed it last: its runs are theirs.
    user_id text NOT NULL,
    acted_by text DEFAULT flotilla_ops.acted_by(),
    person text DEFAULT nullif(current_setting('flotilla.person', true), ''),
    service text DEFAULT nullif(current_setting('flotilla.service', true), ''),
    key_id text,
    owner text NOT NULL,
    -- What the sessions that it writes to have to let in, and how those are seen that it opens.
    names text[] NOT NULL,
    sees_all boolean NOT NULL,
    visibility text NOT NULL,
    generation bigint NOT NULL DEFAULT 1,
    synced bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    PRIMARY KEY (tenant_id, schedule_id)
);
CREATE INDEX schedules_unsynced ON flotilla.schedules (updated_at) WHERE synced < generation;
CREATE INDEX schedules_by_key ON flotilla.schedules (tenant_id, key_id) WHERE NOT paused;
SELECT flotilla_ops.protect('flotilla.schedules');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.schedules TO flotilla_gateway;
GRANT SELECT, UPDATE (paused, note, generation, synced, updated_at), DELETE ON flotilla.schedules TO flotilla_worker;
CREATE POLICY people_flotilla_gateway ON flotilla.schedules AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all()) OR owner = ANY ((SELECT flotilla_ops.viewer_names())::text[]));

ALTER TABLE flotilla.runs ADD COLUMN schedule_id text;
CREATE INDEX runs_by_schedule ON flotilla.runs (tenant_id, schedule_id, created_at DESC) WHERE schedule_id IS NOT NULL;

-- Changes that Temporal does not have yet, oldest first.
CREATE FUNCTION flotilla.unsynced_schedules(at_most integer) RETURNS TABLE (tenant_id text, schedule_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.tenant_id, s.schedule_id FROM flotilla.schedules AS s
    WHERE s.synced < s.generation ORDER BY s.updated_at LIMIT at_most
    $$;

-- Schedules that go on although the key by which they were made is revoked or over.
CREATE FUNCTION flotilla.orphaned_schedules(at_most integer)
    RETURNS TABLE (tenant_id text, schedule_id text, key_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.tenant_id, s.schedule_id, s.key_id FROM flotilla.schedules AS s
    JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
    WHERE NOT s.paused AND s.deleted_at IS NULL AND (k.revoked_at IS NOT NULL OR k.expires_at < now()) LIMIT at_most
    $$;

-- A schedule whose maker may still start runs by it: nothing where it is deleted, or their key is revoked or over.
CREATE FUNCTION flotilla.firing_schedule(tenant text, schedule text)
    RETURNS TABLE (user_id text, acted_by text, person text, service text, owner text, names text[], sees_all boolean,
                   visibility text, metadata jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.user_id, s.acted_by, s.person, s.service, s.owner, s.names, s.sees_all, s.visibility, s.metadata
    FROM flotilla.schedules AS s
    LEFT JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
    WHERE s.tenant_id = tenant AND tenant = flotilla_ops.current_tenant() AND s.schedule_id = schedule
      AND s.deleted_at IS NULL
      AND (s.key_id IS NULL OR (k.key_id IS NOT NULL AND k.revoked_at IS NULL
                                AND (k.expires_at IS NULL OR k.expires_at > now())))
    $$;

SELECT flotilla_ops.open_to('flotilla.schedules', 'flotilla_definer');
GRANT SELECT ON flotilla.schedules TO flotilla_definer;
DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.unsynced_schedules(integer)', 'flotilla.orphaned_schedules(integer)',
                                     'flotilla.firing_schedule(text, text)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_worker', signature);
    END LOOP;
END
$$;
