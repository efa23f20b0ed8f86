-- Files that clients of OpenAI's API sent: kept until they expire, attached to the sessions whose questions name them.
CREATE TABLE flotilla.openai_files (
    tenant_id text NOT NULL,
    file_id text NOT NULL,
    -- Whose it is, as `flotilla.contracts.identity` writes people: nobody else sees it.
    owner text NOT NULL,
    purpose text NOT NULL,
    filename text NOT NULL,
    size_bytes integer NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, file_id)
);
CREATE INDEX openai_files_by_owner ON flotilla.openai_files (tenant_id, owner, created_at DESC, file_id DESC);
CREATE INDEX openai_files_by_expiry ON flotilla.openai_files (expires_at);
SELECT flotilla_ops.protect('flotilla.openai_files');
GRANT SELECT, INSERT, DELETE ON flotilla.openai_files TO flotilla_gateway, flotilla_app;
CREATE POLICY people ON flotilla.openai_files AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all()) OR owner = ANY ((SELECT flotilla_ops.viewer_names())::text[]));
SELECT flotilla_ops.open_to('flotilla.openai_files', 'flotilla_definer');
GRANT SELECT, DELETE, UPDATE (expires_at) ON flotilla.openai_files TO flotilla_definer;

-- Forgets files of every tenant that have expired; how many it did.
CREATE FUNCTION flotilla.forget_openai_files(at_most integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH gone AS (
        DELETE FROM flotilla.openai_files WHERE ctid IN (
            SELECT f.ctid FROM flotilla.openai_files AS f
            WHERE f.expires_at < now() ORDER BY f.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING 1
    )
    SELECT count(*) FROM gone
    $$;
ALTER FUNCTION flotilla.forget_openai_files(integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.forget_openai_files(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.forget_openai_files(integer) TO flotilla_gateway;
