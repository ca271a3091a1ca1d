"""Files: written whole, for their owner only, summed, kept inside a folder, read within limits."""
