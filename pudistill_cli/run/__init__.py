"""A run on disk and in memory: its folder, ledger, identity, and what its stages share."""
