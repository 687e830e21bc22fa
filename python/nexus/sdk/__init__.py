"""The Python interface to a node."""
