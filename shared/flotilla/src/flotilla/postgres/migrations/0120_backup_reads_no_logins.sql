-- The backup's role reads what backups hold: not the logins that are under way, nor the hashes of browser tokens.

CREATE OR REPLACE FUNCTION flotilla_ops.open_to_backup() RETURNS void
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
          AND c.oid NOT IN ('flotilla.sign_ins'::regclass, 'flotilla.browser_tokens'::regclass)
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
REVOKE SELECT ON flotilla.sign_ins, flotilla.browser_tokens FROM flotilla_backup;
DROP POLICY IF EXISTS backup ON flotilla.sign_ins;
DROP POLICY IF EXISTS backup ON flotilla.browser_tokens;
