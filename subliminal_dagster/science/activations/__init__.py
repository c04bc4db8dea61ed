"""Residual-stream activations of the rows that are looked into.

Belongs here: which rows, and collecting, writing and reading their activations. Does not belong here: what is read off
them (`features`, `probes`, `steering`).
"""
