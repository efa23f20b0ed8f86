-- Workers make the keys of sessions. An agent of the former version still reads the wrapped ones of its task's session, and
-- none makes any: without the root key it could only put something in their place that nobody can open.
REVOKE EXECUTE ON FUNCTION flotilla.add_keys(text, text, text, text, bytea, bytea, bytea) FROM flotilla_agent;
