-- Recorded runs are done again in sessions of a kind of their own, by agents that say that all their effects can be blocked.
ALTER TABLE flotilla.sessions ADD COLUMN kind text NOT NULL DEFAULT 'conversation'
    CHECK (kind IN ('conversation', 'replay'));
ALTER TABLE flotilla_ops.agents ADD COLUMN replayable boolean NOT NULL DEFAULT false;
