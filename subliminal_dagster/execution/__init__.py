"""What carries it out: runs, workers, GPUs, schedules.

Belongs here: one materialization, launching and watching runs, sharing a machine. Does not belong here: what is due
(`planning`), any one asset (`assets`).
"""
