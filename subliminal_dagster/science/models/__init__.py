"""Language models: where they come from, how they chat, how they generate and score.

Belongs here: what several experiments do with a model. Does not belong here: anything about one experiment.
"""
