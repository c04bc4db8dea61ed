"""Whether a machine is ready for what is asked of it, before anything is downloaded or computed.

Belongs here: one function a check, each of which looks and returns a `Finding`. Does not belong here: which checks a
study needs (`execution.preflight`), how they are printed (`cli`).
"""
