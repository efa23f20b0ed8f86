-- People within a tenant: who may read and write a session, and everything that belongs to it. The gateway says for whom
-- a transaction acts (flotilla.postgres.viewer); agents, worker, relay and audit consumer act per task and see all.

-- Sessions of former versions, and those that a former gateway opens while the fleet is upgraded, have no owner and are
-- the whole tenant's, as they were.
ALTER TABLE flotilla.sessions
    -- Identities and groups as `flotilla.contracts.identity` writes them.
    ADD COLUMN owner text,
    ADD COLUMN visibility text NOT NULL DEFAULT 'tenant' CHECK (visibility IN ('private', 'tenant')),
    ADD COLUMN readers text[] NOT NULL DEFAULT '{}',
    ADD COLUMN writers text[] NOT NULL DEFAULT '{}',
    -- The sessions whose first events are the first events of this one.
    ADD COLUMN ancestors text[] NOT NULL DEFAULT '{}';
ALTER TABLE flotilla.sessions ADD CONSTRAINT sessions_private_has_owner CHECK (visibility = 'tenant' OR owner IS NOT NULL);

WITH RECURSIVE forks AS (
    SELECT s.tenant_id, s.session_id, ARRAY[s.parent_session_id] AS ancestors, s.parent_session_id AS top
    FROM flotilla.sessions AS s WHERE s.parent_session_id IS NOT NULL
    UNION ALL
    SELECT f.tenant_id, f.session_id, p.parent_session_id || f.ancestors, p.parent_session_id
    FROM forks AS f JOIN flotilla.sessions AS p ON p.tenant_id = f.tenant_id AND p.session_id = f.top
    WHERE p.parent_session_id IS NOT NULL AND NOT p.parent_session_id = ANY (f.ancestors)
)
UPDATE flotilla.sessions AS s SET ancestors = f.ancestors
FROM (SELECT DISTINCT ON (tenant_id, session_id) * FROM forks
      ORDER BY tenant_id, session_id, cardinality(ancestors) DESC) AS f
WHERE s.tenant_id = f.tenant_id AND s.session_id = f.session_id;

-- For whom the transaction acts: an identity and its groups; NULL when nobody said.
CREATE FUNCTION flotilla_ops.viewer_names() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('flotilla.viewer_names', true), '')::text[] $$;
CREATE FUNCTION flotilla_ops.viewer_roles() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('flotilla.viewer_roles', true), '')::text[] $$;
-- Whether people do not limit the transaction. When nobody said, the gateway's role sees nothing.
CREATE FUNCTION flotilla_ops.sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT coalesce(nullif(current_setting('flotilla.sees_all', true), '') = 'on', session_user <> 'flotilla_gateway')
    $$;

CREATE FUNCTION flotilla_ops.has_access(visibility text, owner text, listed text[], names text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT coalesce(names IS NOT NULL AND (visibility = 'tenant' OR owner = ANY (names) OR listed && names), false)
    $$;

-- Whether the viewer may read every one of these sessions: a fork begins with their events.
CREATE FUNCTION flotilla.sees_ancestors(tenant text, sessions text[]) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT NOT EXISTS (
        SELECT FROM unnest(sessions) AS a (session_id)
        LEFT JOIN flotilla.sessions AS s ON s.tenant_id = tenant AND s.session_id = a.session_id
        WHERE NOT flotilla_ops.has_access(s.visibility, s.owner, s.readers || s.writers, flotilla_ops.viewer_names()))
    $$;

-- Whether one of these roles may decide an approval with this requirement.
CREATE FUNCTION flotilla_ops.may_decide(requirement jsonb, roles text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce(requirement -> 'roles' ?| roles, false) $$;

-- The session of the approval that the transaction records a vote on, if the viewer may see the approval.
CREATE FUNCTION flotilla.deciding_session() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT a.session_id FROM flotilla.approvals AS a
    JOIN flotilla.sessions AS s ON s.tenant_id = a.tenant_id AND s.session_id = a.session_id
    WHERE a.tenant_id = flotilla_ops.current_tenant()
      AND a.approval_id = nullif(current_setting('flotilla.deciding', true), '')
      AND (flotilla_ops.may_decide(a.requirement, flotilla_ops.viewer_roles())
           OR flotilla_ops.has_access(s.visibility, s.owner, s.readers || s.writers, flotilla_ops.viewer_names()))
    $$;

-- A fork's ancestors are its parent's and its parent, no matter who opens it.
CREATE FUNCTION flotilla.note_ancestors() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
BEGIN
    SELECT p.ancestors || p.session_id INTO STRICT NEW.ancestors FROM flotilla.sessions AS p
        WHERE p.tenant_id = NEW.tenant_id AND p.session_id = NEW.parent_session_id;
    RETURN NEW;
EXCEPTION WHEN no_data_found THEN
    NEW.ancestors := ARRAY[NEW.parent_session_id];
    RETURN NEW;
END
$$;
ALTER FUNCTION flotilla.sees_ancestors(text, text[]) OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.deciding_session() OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.note_ancestors() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.sees_ancestors(text, text[]), flotilla.deciding_session(), flotilla.note_ancestors()
    FROM PUBLIC;
CREATE TRIGGER note_ancestors BEFORE INSERT ON flotilla.sessions
    FOR EACH ROW WHEN (NEW.parent_session_id IS NOT NULL) EXECUTE FUNCTION flotilla.note_ancestors();

-- The same for functions that change a session with the rights of their owner: only who may write to it moves its head,
-- and only its owner changes who may read and write it.
CREATE FUNCTION flotilla_ops.check_change() RETURNS trigger LANGUAGE plpgsql
    AS $$
DECLARE
    names CONSTANT text[] := flotilla_ops.viewer_names();
BEGIN
    IF (OLD.owner, OLD.visibility, OLD.readers, OLD.writers, OLD.ancestors)
        IS DISTINCT FROM (NEW.owner, NEW.visibility, NEW.readers, NEW.writers, NEW.ancestors)
    THEN
        IF NOT coalesce(OLD.owner = ANY (names), false) THEN
            RAISE insufficient_privilege USING MESSAGE = 'row-level security: only its owner changes who may read a session';
        END IF;
    ELSIF NOT flotilla_ops.has_access(OLD.visibility, OLD.owner, OLD.writers, names)
        AND OLD.session_id IS DISTINCT FROM flotilla.deciding_session()
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'row-level security: only who may write to a session changes it';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER check_change BEFORE UPDATE ON flotilla.sessions
    FOR EACH ROW WHEN (NOT flotilla_ops.sees_all()) EXECUTE FUNCTION flotilla_ops.check_change();

-- Restrictive policies: they take away from what the tenant's policy lets through.
CREATE FUNCTION flotilla_ops.limit_to_people(role_name text) RETURNS void LANGUAGE plpgsql
    AS $function$
DECLARE
    target regclass;
    without_session text;
BEGIN
    EXECUTE format('GRANT EXECUTE ON FUNCTION flotilla.sees_ancestors(text, text[]), flotilla.deciding_session() TO %I',
                   role_name);
    EXECUTE format('GRANT UPDATE (owner, visibility, readers, writers) ON flotilla.sessions TO %I', role_name);
    EXECUTE format($$
        CREATE POLICY %I ON flotilla.sessions AS RESTRICTIVE TO %I
        USING ((SELECT flotilla_ops.sees_all())
            OR (flotilla_ops.has_access(visibility, owner, readers || writers, (SELECT flotilla_ops.viewer_names()))
                AND (ancestors = '{}' OR flotilla.sees_ancestors(tenant_id, ancestors)))
            OR session_id = (SELECT flotilla.deciding_session()))
        WITH CHECK ((SELECT flotilla_ops.sees_all())
            OR flotilla_ops.has_access(visibility, owner, writers, (SELECT flotilla_ops.viewer_names()))
            OR session_id = (SELECT flotilla.deciding_session()))
        $$, 'people_' || role_name, role_name);
    EXECUTE format($$
        CREATE POLICY %I ON flotilla.approvals AS RESTRICTIVE TO %I
        USING ((SELECT flotilla_ops.sees_all())
            OR flotilla_ops.may_decide(requirement, (SELECT flotilla_ops.viewer_roles()))
            OR EXISTS (SELECT FROM flotilla.sessions AS s
                       WHERE s.tenant_id = approvals.tenant_id AND s.session_id = approvals.session_id))
        $$, 'people_' || role_name, role_name);
    -- What belongs to an approval, or to a run.
    EXECUTE format($$
        CREATE POLICY %1$I ON flotilla.approval_decisions AS RESTRICTIVE TO %2$I
        USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.approvals AS a
            WHERE a.tenant_id = approval_decisions.tenant_id AND a.approval_id = approval_decisions.approval_id));
        CREATE POLICY %1$I ON flotilla.webhook_deliveries AS RESTRICTIVE TO %2$I
        USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.approvals AS a
            WHERE a.tenant_id = webhook_deliveries.tenant_id AND a.approval_id = webhook_deliveries.approval_id));
        CREATE POLICY %1$I ON flotilla.publications AS RESTRICTIVE TO %2$I
        USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.runs AS r
            WHERE r.tenant_id = publications.tenant_id AND r.run_id = publications.run_id))
        $$, 'people_' || role_name, role_name);
    -- Everything else that names its session. Rows without one may hold anybody's text.
    FOR target IN
        SELECT a.attrelid::regclass FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relkind = 'r' AND a.attname = 'session_id' AND NOT a.attisdropped
          AND c.relnamespace IN ('flotilla'::regnamespace, 'audit'::regnamespace, 'audit_next'::regnamespace)
          AND c.oid NOT IN ('flotilla.sessions'::regclass, 'flotilla.approvals'::regclass)
    LOOP
        without_session := CASE WHEN target = 'audit.requests'::regclass
            THEN $$ OR session_id IS NULL OR session_id = '-' $$ ELSE '' END;
        EXECUTE format($$
            CREATE POLICY %1$I ON %3$s AS RESTRICTIVE TO %2$I
            USING ((SELECT flotilla_ops.sees_all()) %4$s
                OR EXISTS (SELECT FROM flotilla.sessions AS s
                           WHERE s.tenant_id = %5$I.tenant_id AND s.session_id = %5$I.session_id))
            WITH CHECK ((SELECT flotilla_ops.sees_all()) %4$s
                OR EXISTS (SELECT FROM flotilla.sessions AS s
                           WHERE s.tenant_id = %5$I.tenant_id AND s.session_id = %5$I.session_id
                             AND (flotilla_ops.has_access(s.visibility, s.owner, s.writers,
                                                          (SELECT flotilla_ops.viewer_names()))
                                  OR s.session_id = (SELECT flotilla.deciding_session()))))
            $$, 'people_' || role_name, role_name, target, without_session,
            (SELECT relname FROM pg_class WHERE oid = target));
    END LOOP;
END
$function$;
-- Who the OpenID provider said it was, and in which groups; NULL for those of API keys.
ALTER TABLE flotilla.sign_ins ADD COLUMN issuer text, ADD COLUMN groups text[] NOT NULL DEFAULT '{}';
DROP FUNCTION flotilla.authenticate_sign_in(bytea);
CREATE FUNCTION flotilla.authenticate_sign_in(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, roles text[], is_person boolean, expires_at timestamptz,
                   issuer text, groups text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.tenant_id, s.key_id, s.subject, coalesce(k.roles, s.roles),
        CASE WHEN s.key_id IS NULL THEN s.is_person ELSE p.subject IS NOT NULL END,
        least(s.expires_at, k.expires_at), s.issuer, s.groups
    FROM flotilla.sign_ins AS s
    LEFT JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
    LEFT JOIN flotilla.people AS p ON p.tenant_id = s.tenant_id AND p.subject = s.subject
    WHERE s.secret_hash = hash AND s.expires_at > now()
      AND (s.key_id IS NULL OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))
    $$;
ALTER FUNCTION flotilla.authenticate_sign_in(bytea) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.authenticate_sign_in(bytea) FROM PUBLIC;

DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN SELECT rolname FROM pg_roles WHERE rolname IN ('flotilla_app', 'flotilla_gateway') LOOP
        PERFORM flotilla_ops.limit_to_people(role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION flotilla.authenticate_sign_in(bytea) TO %I', role_name);
    END LOOP;
END
$$;
