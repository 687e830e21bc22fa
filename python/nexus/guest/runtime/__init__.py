"""The Lambda runtime inside an instance: imports the handler, takes the snapshot, then handles events."""
