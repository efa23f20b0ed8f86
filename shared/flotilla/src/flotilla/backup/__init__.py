"""A backup of the whole fleet at one point: created while it works, verified alone, restored into an empty one."""
