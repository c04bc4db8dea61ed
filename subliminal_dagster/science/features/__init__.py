"""Sparse autoencoders and the features that differ between groups, or that filter data sets."""
