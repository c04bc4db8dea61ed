"""A sweep's result: gamma over the grid of cells.

Belongs here: its tables, its picture, its section of the report. Does not belong here: which cells there are
(`settings.sweep`), gamma itself (`liking`).
"""
