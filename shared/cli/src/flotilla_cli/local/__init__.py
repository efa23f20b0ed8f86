"""The local stack as the command line shows it; loaded only by the verbs that need it."""
