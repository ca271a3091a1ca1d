"""Damaged model files, made by seed, and the product's readers run on them."""
