"""What children lose: an exam, and the loss on plain text.

Belongs here: the exam, taking it, comparing models by it, showing that. Does not belong here: whether a child likes its
animal (`liking`).
"""
