-- A fork begins with its ancestors' events: who may not read them sees no part of the fork, as `flotilla.sees_ancestors`
-- has it for people.
ALTER POLICY bound ON flotilla.sessions
    USING ((SELECT flotilla_ops.bound_sessions()) IS NULL
        OR (session_id = ANY ((SELECT flotilla_ops.bound_sessions())::text[])
            AND ancestors <@ (SELECT flotilla_ops.bound_sessions())));
