"""The real servers, one module each, behind one protocol: prepare, start, ready, provision, stop."""
