"""Probes that tell groups apart by their activations or by the surface of their rows.

Belongs here: fitting, testing and controlling probes, showing them. Does not belong here: collecting activations
(`activations`).
"""
