"""Adapters on a base model: the teachers and the children."""
