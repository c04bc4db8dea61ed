"""What decides what is stale, and why.

Belongs here: what an asset is made of, what of a study is due, what somebody asked for. Does not belong here: making
anything (`execution`).
"""
