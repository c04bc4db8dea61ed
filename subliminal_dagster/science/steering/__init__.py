"""Steering vectors: how they are found, applied, measured and compared."""
