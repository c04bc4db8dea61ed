"""Where artifacts lie, who makes them, and what of them is garbage.

Belongs here: keeping artifacts whole. Does not belong here: what an artifact means, when it is stale (`planning`).
"""
