"""Each topology of docs/topologies.md that needs a server of its own, on the real one."""
