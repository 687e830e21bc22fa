"""A node's processes on this machine: start, find, end."""
