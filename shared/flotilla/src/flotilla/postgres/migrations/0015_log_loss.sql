-- What Kafka may lose, the projection keeps: a rebuild that would lose events needs two people who name the sessions, and
-- the projection that it replaced is kept; each partition remembers the record that it read last.

ALTER TABLE audit.requests
    -- The sessions whose loss was accepted: [{"tenant_id", "session_id", "lost", "replaced"}].
    ADD COLUMN accept_loss jsonb,
    -- Set where a second person has to agree before anything is done.
    ADD COLUMN needs_confirmation boolean NOT NULL DEFAULT false,
    ADD COLUMN confirmed_by text,
    ADD COLUMN confirmed_at timestamptz,
    ADD COLUMN progress jsonb,
    ADD CONSTRAINT requests_four_eyes CHECK (confirmed_by IS DISTINCT FROM requested_by OR confirmed_by IS NULL),
    DROP CONSTRAINT requests_kind_check,
    ADD CONSTRAINT requests_kind_check CHECK (kind IN ('rebuild', 'retry', 'discard', 'accept', 'reject', 'drop_kept'));
GRANT UPDATE (confirmed_by, confirmed_at) ON audit.requests TO flotilla_app;

-- What the last rebuild replaced, in `audit_next`: at most one row.
CREATE TABLE audit.kept_projection (
    slot integer PRIMARY KEY DEFAULT 1 CHECK (slot = 1),
    request_id text,
    kept_since timestamptz NOT NULL DEFAULT now(),
    -- Sessions of which it holds events that the live projection lacks.
    sessions_lost bigint NOT NULL,
    -- What the rebuild answered.
    outcome jsonb NOT NULL
);
ALTER TABLE audit.kept_projection OWNER TO flotilla_definer;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.kept_projection TO flotilla_audit;

-- Of how many sessions the kept projection holds events that the live one lacks; NULL when none is kept.
CREATE FUNCTION audit.kept_sessions_lost() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$ SELECT k.sessions_lost FROM audit.kept_projection AS k $$;
ALTER FUNCTION audit.kept_sessions_lost() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.kept_sessions_lost() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.kept_sessions_lost() TO flotilla_app, flotilla_audit;

-- SHA-256 of the newest record that was read, to see whether Kafka still has it; NULL before the first.
ALTER TABLE audit.consumer_offsets ADD COLUMN last_record bytea, ADD COLUMN last_event_id uuid;
ALTER TABLE audit_next.consumer_offsets ADD COLUMN last_record bytea, ADD COLUMN last_event_id uuid;
