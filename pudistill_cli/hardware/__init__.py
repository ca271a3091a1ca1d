"""The machine: what it has, which backends suit it, and whether a student fits."""
