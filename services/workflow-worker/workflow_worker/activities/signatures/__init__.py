"""Names and messages of the activities, by domain. Workflows import these and nothing else of the activities."""
