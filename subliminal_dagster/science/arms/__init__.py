"""Arms of children: what is left of the effect where one thing is taken away.

Belongs here: what each arm learns from and how, its children, their comparison and the report's section on them. Does
not belong here: training (`training`), the contrasts (`liking.children`), anything of Dagster.
"""
