"""Measures of an answer: metrics that are data (`registry.py`), and a function of the person's (`python_code.py`)."""
