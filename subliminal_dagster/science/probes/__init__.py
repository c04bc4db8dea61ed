"""Probes that tell groups apart by their activations or by the surface of their rows."""
