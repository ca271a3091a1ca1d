"""The llama.cpp backend: fast sampling and scoring anywhere, GGUF in and out. Importing it imports no framework."""
