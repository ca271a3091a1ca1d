"""Measurements that are too long for the tests; every one is seeded and records its machine."""
