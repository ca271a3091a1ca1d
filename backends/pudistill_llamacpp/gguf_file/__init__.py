"""GGUF files as bytes: their headers, read and checked before llama.cpp or the gguf package sees them."""
