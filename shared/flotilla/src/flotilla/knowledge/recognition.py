"""Which language a text is in."""

SAMPLE_CHARACTERS = 2000
MIN_CERTAINTY = 0.9


def detect_language(text: str, default: str) -> str:
    """Return the language of `text`, and `default` where its beginning does not show it clearly."""
    from flotilla.knowledge.identifier import IDENTIFIER

    language, certainty = IDENTIFIER.classify(text[:SAMPLE_CHARACTERS])
    return str(language) if certainty >= MIN_CERTAINTY else default
