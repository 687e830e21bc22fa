"""Shims: an SDK's own API in the guest, its fabric on the host."""
