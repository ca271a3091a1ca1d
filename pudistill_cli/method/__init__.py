"""The method: each formula once, over arrays, with no framework. DESIGN of the formulas: docs/method.md."""
