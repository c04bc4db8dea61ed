"""Whole pages, put together from the experiments' sections.

Belongs here: which sections a page has, and what stands above them. Does not belong here: any one section, HTML
(`report`).
"""
