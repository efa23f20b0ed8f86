"""Questions that workflows ask people."""
