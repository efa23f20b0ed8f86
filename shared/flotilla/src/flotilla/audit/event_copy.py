"""The copy of an event for queries: JSON that PostgreSQL reads, without ciphertext, which no query can read."""


def sql_without_ciphertext(document: str) -> str:
    """SQL for the JSON document `document`, a column, without its encrypted part; data that is no object stays."""
    return (
        f"CASE WHEN jsonb_typeof({document} -> 'data') = 'object' "
        f"THEN {document} #- '{{data,sealed}}' ELSE {document} END"
    )
