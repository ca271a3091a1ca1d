"""A thin layer over llama.cpp's C interface: model, vocabulary, context, adapter. Importing it imports no framework."""
