"""Names that several modules of the gateway use."""

SOURCE = "/gateway"
"""`source` of the session events that the gateway appends."""
EVENT_STREAM_MEDIA_TYPE = "text/event-stream"
