"""The report of a study, as one HTML page.

Belongs here: reading a study's artifacts, and saying, drawing and setting what they show; one module a section. Does
not belong here: any analysis: a number that is not in an artifact is computed by the module of its experiment.
"""
