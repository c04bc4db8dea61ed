"""All that a study may say, a module per stage.

Belongs here: what may be set, how a study file is read, and which files of the user's count. Does not belong here: what
is done with a setting.
"""
