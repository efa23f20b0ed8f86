"""`python -m flotilla.install`: what services expect to find: schema, topics, consumer groups, first keys."""
