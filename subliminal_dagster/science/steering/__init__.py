"""Steering vectors: how they are found, applied, measured and compared.

Belongs here: finding, trying and taking apart vectors, showing that. Does not belong here: reading activations off rows
(`activations`).
"""
