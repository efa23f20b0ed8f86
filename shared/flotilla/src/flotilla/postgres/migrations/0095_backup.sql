-- Backups: a role that reads everything and changes nothing, and where a restore stands.

DO $$
BEGIN
    CREATE ROLE flotilla_backup LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- Lets the backup's role read each table, its rows of all tenants included. What other migrations add is opened by the
-- installer, which calls this after them.
CREATE FUNCTION flotilla_ops.open_to_backup() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target regclass;
BEGIN
    GRANT USAGE ON SCHEMA flotilla, flotilla_ops, audit, audit_next TO flotilla_backup;
    FOR target IN SELECT c.oid::regclass FROM pg_class AS c
        WHERE c.relnamespace IN ('flotilla'::regnamespace, 'flotilla_ops'::regnamespace, 'audit'::regnamespace,
                                 'audit_next'::regnamespace)
          AND c.relkind IN ('r', 'p', 'S')
          AND (NOT has_table_privilege('flotilla_backup', c.oid, 'SELECT')
               OR (c.relrowsecurity AND NOT EXISTS (
                   SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'backup')))
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO flotilla_backup', target);
        IF (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = target) THEN
            EXECUTE format('CREATE POLICY backup ON %s FOR SELECT TO flotilla_backup USING (true)', target);
        END IF;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION flotilla_ops.open_to_backup() FROM PUBLIC;

-- A restore writes down how far it is, so that one that was killed goes on, and a second one is noticed.
CREATE TABLE flotilla_ops.restores (
    backup_id text PRIMARY KEY,
    manifest_sha256 text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE TABLE flotilla_ops.restored_tables (
    backup_id text NOT NULL REFERENCES flotilla_ops.restores,
    table_name text NOT NULL,
    row_count bigint NOT NULL,
    PRIMARY KEY (backup_id, table_name)
);

SELECT flotilla_ops.open_to_backup();
