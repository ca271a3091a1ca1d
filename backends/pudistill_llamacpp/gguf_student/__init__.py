"""A GGUF file as the student: read, made a checkpoint for the learner, and written back. Imports no framework."""
