"""Whole pages, put together from the experiments' sections."""
