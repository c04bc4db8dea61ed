"""Adapters on a base model: the teachers and the children.

Belongs here: from rows to an adapter, what teachers and children are, showing the teachers. Does not belong here: what
a child likes (`liking`) or can do (`capability`).
"""
