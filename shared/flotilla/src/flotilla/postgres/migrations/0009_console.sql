-- The console shows what was forked from a session.
CREATE INDEX sessions_by_parent ON flotilla.sessions (tenant_id, parent_session_id)
    WHERE parent_session_id IS NOT NULL;
