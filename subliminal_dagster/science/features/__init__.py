"""Sparse autoencoders and the features that differ between groups, or that filter data sets.

Belongs here: training and loading autoencoders, comparing groups by their features, showing that. Does not belong here:
what features mean (`descriptions`).
"""
