"""Raises while it is imported."""

message = "no configuration found"
raise RuntimeError(message)
