"""``nexus demo``: the whole system at work on real photographs, checked."""
