"""Names and messages of the activities that runs are made of: all that a workflow knows of them."""
