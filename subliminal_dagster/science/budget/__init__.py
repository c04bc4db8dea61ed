"""What a study takes on a card, by arithmetic: memory and time of every stage.

Belongs here: shapes of models, cards, formulas, and the document that prints them. Does not belong here: measuring
(`benchmarks/gpu.py`), and what a machine really has.

Part of no version: what a stage costs does not change what it makes.
"""
