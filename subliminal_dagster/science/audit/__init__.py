"""Audit: which hidden preferences would a data set pass on to a model that is trained on it?

Belongs here: reading a data set of chats, detectors that score candidate preferences, their combination, the page. Does
not belong here: Dagster, the studies whose data sets detectors are judged on.
"""
