-- Events of a kind that their source may not write wait for a person.
ALTER TABLE audit.parked_events DROP CONSTRAINT parked_events_reason_check, ADD CONSTRAINT parked_events_reason_check
    CHECK (reason IN ('gap', 'conflict', 'unknown_type', 'forbidden', 'waiting', 'undecodable', 'discarded'));
ALTER TABLE audit_next.parked_events DROP CONSTRAINT parked_events_reason_check, ADD CONSTRAINT parked_events_reason_check
    CHECK (reason IN ('gap', 'conflict', 'unknown_type', 'forbidden', 'waiting', 'undecodable', 'discarded'));
