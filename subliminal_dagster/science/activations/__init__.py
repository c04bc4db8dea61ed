"""Residual-stream activations of the rows that are looked into."""
