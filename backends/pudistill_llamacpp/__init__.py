"""The llama.cpp backend: sampling and scoring anywhere, GGUF in and out. Importing this package imports no framework."""
