"""The main comparison: which child likes which animal, how strong the signal was, and why there may be none."""
