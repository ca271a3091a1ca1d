"""What may happen to a run overnight, done to small real runs: the parts of `benchmarks.faults`."""
