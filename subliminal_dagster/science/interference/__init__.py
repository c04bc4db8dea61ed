"""Interference inside the base model: whether features of numbers lie across an animal's directions, and how crowded a
layer is.

Belongs here: overlaps of decoder columns with directions, superposition by layer, figures, the section. Does not belong
here: making autoencoders, features or vectors.
"""
