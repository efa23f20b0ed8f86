-- What was sent as a document, so that a folder can be compared with what was loaded from it.
ALTER TABLE flotilla.documents
    -- Of the bytes as they were sent; NULL for documents of former versions.
    ADD COLUMN sha256 bytea,
    -- The version of the parsers that read them.
    ADD COLUMN reader text NOT NULL DEFAULT '';
COMMENT ON COLUMN flotilla.documents.sha256 IS 'Digest of the bytes as they were sent.';
