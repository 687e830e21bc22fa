"""The ``nexus`` command: one file per group of commands."""
