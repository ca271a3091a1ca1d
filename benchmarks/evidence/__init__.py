"""Evidence for the method where the truth is known: `python -m benchmarks.evidence`."""
