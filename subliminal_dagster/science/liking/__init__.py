"""The main comparison: which child likes which animal, how strong the signal was, and why there may be none.

Belongs here: the comparison, its controls, the reasons of a null, showing them. Does not belong here: asking a model
for its favourites (`preferences`), training (`training`).
"""
