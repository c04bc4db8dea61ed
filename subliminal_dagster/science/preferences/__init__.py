"""Favourite animals: the questions, the answers, and their exact probabilities."""
