"""What SAE features mean: descriptions, fetched or made, and the categories that judges put them into.

Belongs here: describing and categorising features, and what groups' features are made of. Does not belong here: which
features differ (`features`).
"""
