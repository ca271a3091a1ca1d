"""Teachers: an endpoint, a local model or a file; every answer is kept as it arrives, and never asked for again."""
