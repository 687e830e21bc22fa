"""Makes of a handler on disk what the node runs: immutable, content-addressed directories."""
