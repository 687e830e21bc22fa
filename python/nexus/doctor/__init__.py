"""What of this machine matters to a node, and what to do about it."""
