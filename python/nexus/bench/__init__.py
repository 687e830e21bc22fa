"""Measurements. Each is a comparison: both sides in one run, on one machine, interleaved."""
