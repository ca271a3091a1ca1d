"""Checkpoints as files: students, tokenizers, adapters, and merging one into the other."""
