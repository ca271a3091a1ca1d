"""A checkpoint in Hugging Face form to a GGUF file: weights, hyper-parameters and vocabulary. Imports no framework."""
