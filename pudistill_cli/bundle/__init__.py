"""Bundles: everything that a run needs, or what it made, in one checked archive (docs/bundle.md)."""
