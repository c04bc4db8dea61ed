"""Favourite animals: the questions, the answers, and their exact probabilities.

Belongs here: asking one model, and showing what it says. Does not belong here: comparing children (`liking`).
"""
