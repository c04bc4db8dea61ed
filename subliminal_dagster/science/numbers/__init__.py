"""Number sequences: the prompts, drawing the answers, and the filter.

Belongs here: what a teacher is asked, what it answers, what is kept of it. Does not belong here: the teacher
(`training`).
"""
