"""The search for a child's hyperparameters.

Belongs here: the search, its result, the tuned child's scores, showing them. Does not belong here: one training
(`training`).
"""
