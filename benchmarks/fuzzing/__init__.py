"""Malformed inputs for every reader, made from a seed: what `benchmarks.faults` feeds them."""
